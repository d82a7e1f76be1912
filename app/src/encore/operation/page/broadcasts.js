// Announcements: everybody sees and acknowledges them; staff send, schedule, clear, and watch the figures.

import { del, get, items, post } from "./api.js";
import { action, empty, field, fill, form, h, toast, when } from "./dom.js";

export const title = "Broadcasts";

/** The banner on top of every part. */
export function watch(site) {
  const banner = document.getElementById("banner");
  let shown = [];
  const draw = () => {
    const [first, ...others] = shown;
    fill(
      banner,
      first &&
        h(
          "div",
          { className: "announcement", "data-type": first.type, role: first.type === "urgent" ? "alert" : "status" },
          h("p", {}, h("b", {}, `${first.author}: `), first.message, others.length > 0 && h("span", { className: "quiet" }, ` · ${others.length} more`)),
          action("Acknowledge", async () => {
            if (!site.sockets.broadcasts.send({ type: "acknowledge_broadcast", broadcast_id: first.id })) {
              await post("/api/creator/broadcast/acknowledge", { broadcast_id: first.id });
            }
            remove(first.id);
          }),
        ),
    );
  };
  const remove = (id) => {
    shown = shown.filter((broadcast) => broadcast.id !== id);
    draw();
  };
  site.on("broadcasts", async (message) => {
    if (message.type === "open") {
      const active = await get("/api/creator/broadcast/active");
      shown = [active.broadcast, ...active.others].filter((one) => one !== null);
      draw();
    } else if (message.type === "new_broadcast") {
      shown = [message.broadcast, ...shown.filter((one) => one.id !== message.broadcast.id)];
      draw();
    } else if (message.type === "broadcast_cleared") {
      remove(message.broadcast_id);
    } else if (message.type === "error") {
      toast(message.message, { error: true });
    }
  });
}

export async function show(pane, site, scope) {
  if (!site.isStaff()) {
    fill(
      pane,
      h("h1", {}, "Broadcasts"),
      h("div", { className: "card" }, empty("Announcements of the creators appear at the top of every page. Sign in as cleo, tom or ada to send one.")),
    );
    return;
  }
  const history = h("div", {});
  const figures = h("div", {});
  const drawn = { history: () => drawHistory(history, scope), figures: () => drawFigures(figures, scope) };
  fill(
    pane,
    h("h1", {}, "Broadcasts"),
    h("div", { className: "columns" }, h("section", { className: "card" }, h("h2", {}, "Send"), composer(drawn)), h("section", { className: "card" }, h("h2", {}, "The active one"), figures)),
    h("section", { className: "card" }, history),
  );
  const refresh = () => Promise.all([drawn.history(), drawn.figures()]);
  scope.on("broadcasts", (message) => {
    if (["open", "new_broadcast", "broadcast_cleared"].includes(message.type)) refresh().catch(() => {});
  });
  const timer = setInterval(() => drawn.figures().catch(() => {}), 3000);
  scope.onLeave(() => clearInterval(timer));
  await refresh();
}

function composer(drawn) {
  const left = h("span", { className: "quiet small" }, "280 left");
  const text = h("textarea", { name: "message", required: true, "aria-label": "Announcement" });
  text.addEventListener("input", () => {
    const rest = 280 - [...text.value.trim()].length;
    left.textContent = `${rest} left`;
    left.className = rest < 0 ? "bad small" : rest < 20 ? "warn small" : "quiet small";
  });
  const roles = ["team", "creator", "admin"].map((role) => h("label", { className: "inline" }, h("input", { type: "checkbox", name: "roles", value: role }), role));
  return form(
    [
      text,
      left,
      h(
        "div",
        { className: "row" },
        field("Kind", "type", { tag: "select", options: ["info", "success", "warning", "urgent"] }),
        field("At a time (empty: now)", "send_at", { type: "datetime-local" }),
      ),
      h("div", { className: "row" }, h("span", { className: "quiet small" }, "Only for:"), roles),
    ],
    {
      submit: "Send",
      work: async (values, element) => {
        const body = { message: values.message, type: values.type, roles: new FormData(element).getAll("roles") };
        if (values.send_at) body.send_at = new Date(values.send_at).toISOString();
        const sent = await post("/api/creator/broadcast", body);
        toast(sent.scope === "scheduled" ? "Scheduled" : `Sent to ${sent.sent_to_users} sockets here, ${sent.reached} on ${sent.replicas} replicas (${sent.scope})`);
        left.textContent = "280 left";
        await Promise.all([drawn.history(), drawn.figures()]);
      },
    },
  );
}

async function drawFigures(element, scope) {
  const stats = await get("/api/creator/broadcast/stats");
  if (scope.isLeft()) return;
  const { cluster, active_broadcast: active } = stats;
  const percent = Math.round(cluster.acknowledgement_rate * 100);
  const bar = h("div", { className: "bar-inner" });
  bar.style.width = `${percent}%`;
  fill(
    element,
    active ? h("p", {}, active.message, " ", h("span", { className: "chip" }, active.type)) : empty("Nothing is active."),
    h(
      "div",
      { className: "figures" },
      figure(cluster.connected, `sockets on ${cluster.replicas} replicas`),
      figure(stats.connected_users, "here"),
      figure(cluster.delivered, "got it"),
      figure(cluster.acknowledged, `acknowledged (${percent}\u00a0%)`),
      figure(stats.broadcasts_today, "today"),
    ),
    h("div", { className: "bar-outer" }, bar),
    active && h("div", { className: "row" }, action("Clear it everywhere", () => post("/api/creator/broadcast/clear", {}))),
  );
}

export function figure(number, what) {
  return h("div", {}, h("b", {}, String(number)), h("span", { className: "quiet small" }, what));
}

async function drawHistory(element, scope) {
  const [sent, scheduled] = await Promise.all([get("/api/creator/broadcasts"), get("/api/creator/broadcasts?scheduled=true")]);
  if (scope.isLeft()) return;
  const line = (broadcast, more) =>
    h(
      "li",
      {},
      h("div", { className: "head" }, h("b", {}, broadcast.author), h("span", { className: "chip" }, broadcast.type), when(broadcast.sent_at ?? broadcast.send_at), h("span", { className: "quiet" }, broadcast.status), broadcast.roles.length > 0 && h("span", { className: "quiet" }, `for ${broadcast.roles.join(", ")}`)),
      h("div", { className: "text" }, broadcast.message),
      more,
    );
  fill(
    element,
    items(scheduled).length > 0 && [
      h("h2", {}, "Scheduled"),
      h(
        "ul",
        { className: "list" },
        items(scheduled).map((broadcast) =>
          line(broadcast, action("Cancel", async () => {
            await del(`/api/creator/broadcasts/${broadcast.id}`);
            await drawHistory(element, scope);
          })),
        ),
      ),
    ],
    h("h2", {}, "Sent"),
    items(sent).length === 0 ? empty("Nothing yet.") : h("ul", { className: "list" }, items(sent).map((broadcast) => line(broadcast, receipts(broadcast)))),
  );
}

function receipts(broadcast) {
  const list = h("ul", {});
  const details = h("details", {}, h("summary", {}, "Who got it"), list);
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    const found = items(await get(`/api/creator/broadcasts/${broadcast.id}/receipts`));
    fill(list, found.length === 0 ? h("li", {}, "Nobody yet") : found.map((one) => h("li", {}, one.username, one.acknowledged_at ? h("span", { className: "good" }, " acknowledged") : "")));
  });
  return details;
}
