// What one is told of: in the forum, live, and the same in all tabs.

import { get, items, post, put } from "./api.js";
import { action, empty, fill, h, toast, when } from "./dom.js";

export const title = "Notifications";

const LIST = "/api/forum/notifications";

/** The badge and the toasts, whatever part is shown. */
export function watch(site) {
  let version = -1;
  const counted = (found) => {
    if ((found.version ?? version + 1) <= version && version !== -1) return;
    version = found.version ?? version;
    site.badge("notifications", found.count ?? found.unread_count ?? 0);
  };
  site.on("forum", (message) => {
    if (message.type === "open") {
      version = -1;
      get(`${LIST}/unread-count`).then(counted, () => {});
    } else if (message.type === "forum_notification_count") counted(message);
    else if (message.type === "forum_notification") toast(message.notification.title);
    else if (message.type === "everyone_mention_disabled" || message.type === "everyone_mention_enabled") toast(message.message);
  });
}

export async function show(pane, site, scope) {
  const list = h("ul", { className: "list" });
  const choices = h("div", { className: "stack" });
  fill(
    pane,
    h("div", { className: "row" }, h("h1", { className: "grow" }, "Notifications"), action("All are read", () => post(`${LIST}/mark-all-read`))),
    h("section", { className: "card" }, list),
    h("section", { className: "card" }, h("h2", {}, "What to be told of"), choices),
  );
  const draw = async () => {
    const found = items(await get(LIST));
    if (scope.isLeft()) return;
    fill(
      list,
      found.length === 0 && h("li", {}, empty("Nothing yet. Follow a thread, or wait for somebody to mention you as @" + site.me.username + ".")),
      found.map((one) => {
        const read = one.is_read ?? one.read_at !== null;
        return h(
          "li",
          { className: read ? "" : "unread" },
          h("div", { className: "head" }, h("a", { href: `#/forum/${one.thread_id}` }, one.title), h("span", { className: "chip" }, one.type), when(one.created_at)),
          h("div", { className: "quiet" }, one.content),
          !read && action("Read", () => post(`${LIST}/${one.id}/read`), { className: "plain" }),
        );
      }),
    );
  };
  scope.on("forum", (message) => {
    if (["open", "forum_notification", "forum_notification_count"].includes(message.type)) draw().catch(() => {});
  });
  await Promise.all([draw(), drawChoices(choices, scope)]);
}

/** One switch for each kind, as the server names them. */
async function drawChoices(element, scope) {
  const path = `${LIST}/preferences`;
  const found = await get(path);
  if (scope.isLeft()) return;
  const flags = Object.entries(found).filter(([, value]) => typeof value === "boolean");
  fill(
    element,
    flags.map(([name, value]) =>
      h(
        "label",
        { className: "inline" },
        h("input", {
          type: "checkbox",
          checked: value,
          on: {
            change: async (event) => {
              try {
                await put(path, { ...Object.fromEntries(flags), [name]: event.target.checked });
                await drawChoices(element, scope);
              } catch (error) {
                toast(error.message, { error: true });
              }
            },
          },
        }),
        name.replaceAll("_", " "),
      ),
    ),
  );
}
