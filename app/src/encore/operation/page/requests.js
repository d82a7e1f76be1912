// Book requests: listeners ask and vote, creators and admins answer.

import { del, get, items, maybe, post, put } from "./api.js";
import { action, counted, empty, field, fill, form, h, toast, when } from "./dom.js";

export const title = "Requests";

const API = "/api/book-requests";
/** The steps that the server takes from each status, with the words for them. */
const NEXT = {
  pending: [["approved", "Approve"], ["rejected", "Decline"]],
  approved: [["in_progress", "Begin"], ["pending", "Take it back"]],
  in_progress: [["fulfilled", "It is available"], ["rejected", "Decline"], ["approved", "Not yet begun"]],
  rejected: [["pending", "Take it back"]],
};
const OPEN = ["pending", "approved", "in_progress"];

/** Toasts, whatever part is shown. */
export function watch(site) {
  site.on("requests", (message) => {
    if (message.type === "status_updated") toast(message.data.message);
    else if (message.type === "error") toast(message.message, { error: true });
  });
  site.on("queue", (message) => {
    if (message.type === "new_request") toast(`New request: ${message.data.title}`);
  });
}

export async function show(pane, site, scope) {
  const own = h("div", {});
  const queue = h("div", {});
  const others = h("div", {});
  const wanted = h("input", { name: "title", required: true, maxLength: 200 });
  const quota = h("p", { className: "quiet small" });
  const draw = () =>
    Promise.all([
      drawOwn(own, site, scope, draw),
      drawOthers(others, wanted.value, scope, draw),
      drawQuota(quota),
      site.decides() && drawQueue(queue, scope, draw),
    ]);
  wanted.addEventListener("input", () => drawOthers(others, wanted.value, scope, draw).catch(() => {}));
  fill(
    pane,
    h("h1", {}, "Book requests"),
    h(
      "div",
      { className: "columns" },
      h("section", { className: "card" }, h("h2", {}, "Asked for"), own),
      h(
        "section",
        { className: "card" },
        h("h2", {}, "Ask for an audiobook"),
        form(
          [
            h("label", {}, "Title", wanted),
            field("Author", "author", { maxLength: 200 }),
            field("Note", "note", { tag: "textarea", maxLength: 2000 }),
            h("label", { className: "inline" }, h("input", { type: "checkbox", name: "is_private" }), "private: only you and those who decide know of it"),
            quota,
          ],
          {
            submit: "Ask",
            work: async (values) => {
              const body = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== ""));
              await post(API, { ...body, is_private: "is_private" in body });
              await draw();
            },
          },
        ),
      ),
    ),
    h("section", { className: "card" }, h("h2", {}, "What others ask for"), others),
    site.decides() && h("section", { className: "card" }, h("h2", {}, "To be answered"), queue),
  );
  const again = (message) => {
    if (message.type !== "pong" && message.type !== "heartbeat") draw().catch(() => {});
  };
  scope.on("requests", again);
  scope.on("queue", again);
  await draw();
}

async function drawQuota(element) {
  const { used, limit } = await get(`${API}/quota`);
  element.textContent = limit === null ? "" : `${used} of ${limit} this week`;
}

function row(request, ...actions) {
  return h(
    "li",
    {},
    h("div", { className: "head" }, h("b", {}, request.title), h("span", { className: "quiet" }, `no. ${request.id}${request.author && ` by ${request.author}`} · ${request.user}`), h("span", { className: "chip" }, request.status), h("span", { className: "quiet" }, `${counted(request.votes, "vote")} · `, when(request.created_at))),
    request.note && h("div", { className: "text" }, request.note),
    request.reason && h("div", { className: "quote" }, request.reason),
    h("div", { className: "row" }, actions),
  );
}

async function drawOwn(element, site, scope, draw) {
  const found = items(await get(API));
  if (scope.isLeft()) return;
  fill(
    element,
    found.length === 0
      ? empty("Nothing yet. Ask for a book, or vote for what others ask for.")
      : h(
          "ul",
          { className: "list" },
          found.map((request) => row(request, request.status === "pending" && withdraw(request, draw), history(request))),
        ),
  );
}

function withdraw(request, draw) {
  return action("Withdraw", async () => {
    await del(`${API}/${request.id}`);
    await draw();
  });
}

/** What happened to a request, and a line to add to it. */
function history(request) {
  const list = h("ul", {});
  const load = async () => {
    const detail = await get(`${API}/${request.id}`);
    fill(list, detail.history.map((event) => h("li", {}, when(event.created_at), ` ${event.user ?? "somebody"}: ${event.kind} ${event.to_status} ${event.text}`)));
  };
  const details = h(
    "details",
    {},
    h("summary", {}, "History"),
    list,
    form([h("input", { name: "text", required: true, maxLength: 2000, "aria-label": "Say something about it" })], {
      submit: "Say it",
      work: async (values) => {
        await post(`${API}/${request.id}/replies`, values);
        await load();
      },
    }),
  );
  details.addEventListener("toggle", () => details.open && load().catch((error) => toast(error.message, { error: true })));
  return details;
}

/** What others asked for, and what the library has: to vote rather than to ask again. */
async function drawOthers(element, title, scope, draw) {
  const found = await get(`${API}/similar?q=${encodeURIComponent(title)}`);
  if (scope.isLeft()) return;
  fill(
    element,
    found.albums.map((album) => h("p", {}, h("span", { className: "chip" }, "in the library"), ` ${album.title}`)),
    found.requests.length === 0 && empty("Nobody asks for anything like it."),
    h(
      "ul",
      { className: "list" },
      found.requests.map((request) =>
        h(
          "li",
          {},
          h("div", { className: "head" }, h("b", {}, request.title), request.author && h("span", { className: "quiet" }, `by ${request.author}`), h("span", { className: "chip" }, request.status), h("span", { className: "quiet" }, counted(request.votes, "vote")), request.is_mine && h("span", { className: "chip" }, "yours")),
          !request.is_mine &&
            action(request.have_voted ? "Take the vote back" : "Me too", async () => {
              const at = `${API}/${request.id}/vote`;
              await (request.have_voted ? del(at) : post(at));
              await draw();
            }),
        ),
      ),
    ),
  );
}

async function drawQueue(element, scope, draw) {
  const page = await maybe(`${API}/admin`);
  if (scope.isLeft() || page === null) return;
  const found = items(page);
  fill(
    element,
    found.length === 0
      ? empty("Nothing waits.")
      : h(
          "ul",
          { className: "list" },
          found.map((request) =>
            row(
              request,
              (NEXT[request.status] ?? []).map(([status, word]) =>
                action(word, async () => {
                  const body = { status };
                  if (status === "rejected") {
                    const reason = prompt("Why?");
                    if (!reason) return;
                    body.reason = reason;
                  }
                  await put(`${API}/${request.id}/status`, { ...body, expected_status: request.status });
                  await draw();
                }),
              ),
              OPEN.includes(request.status) && action("It is a duplicate", async () => {
                const into = Number(prompt("Of which request (its number)?"));
                if (into) await post(`${API}/${request.id}/merge`, { into_id: into });
                await draw();
              }),
              history(request),
            ),
          ),
        ),
  );
}
