// One's sessions, password, and tickets for sockets.

import { del, get, items, post } from "./api.js";
import { action, field, fill, form, h, toast, when } from "./dom.js";

export const title = "Account";

export async function show(pane, site, scope) {
  const list = h("ul", { className: "list" });
  const draw = async () => {
    const found = items(await get("/api/auth/sessions"));
    if (scope.isLeft()) return;
    fill(
      list,
      found.map((session) =>
        h(
          "li",
          {},
          h("div", { className: "head" }, h("b", {}, session.address || "unknown address"), session.is_current && h("span", { className: "chip" }, "this one"), h("span", { className: "quiet" }, "seen ", when(session.last_seen_at))),
          h("div", { className: "quiet small" }, session.user_agent || "unknown program"),
          !session.is_current &&
            action("Sign out there", async () => {
              await del(`/api/auth/sessions/${session.id}`);
              await draw();
            }),
        ),
      ),
    );
  };
  const ticket = h("p", { className: "small" });
  fill(
    pane,
    h("h1", {}, "Account"),
    h(
      "div",
      { className: "columns" },
      h("section", { className: "card" }, h("h2", {}, "Where you are signed in"), list, action("Look again", draw)),
      h(
        "section",
        { className: "card" },
        h("h2", {}, "Password"),
        form(
          [
            field("The present one", "current_password", { type: "password", required: true, autocomplete: "current-password" }),
            field("The new one", "new_password", { type: "password", required: true, minLength: 8, autocomplete: "new-password" }),
          ],
          {
            submit: "Change it",
            work: async (values) => {
              const ended = await post("/api/auth/password", values);
              toast(`Changed; ${ended.sessions} other sessions were signed out`);
              await draw();
            },
          },
        ),
      ),
      h(
        "section",
        { className: "card" },
        h("h2", {}, "For programs"),
        h("p", {}, "A ticket signs one socket in, for a client that has no cookie:"),
        action("Get a ticket", async () => {
          const found = await post("/api/auth/ws-ticket");
          fill(ticket, h("code", {}, `${location.origin.replace("http", "ws")}/ws/broadcasts?ticket=${found.ticket}`));
        }),
        ticket,
      ),
    ),
  );
  await draw();
}
