// The page itself: who is here, which sockets are open, which part is shown.

import { maybe, post } from "./api.js";
import { action, empty, field, fill, form, h, toast } from "./dom.js";
import { Live } from "./live.js";
import * as account from "./account.js";
import * as broadcasts from "./broadcasts.js";
import * as forum from "./forum.js";
import * as notifications from "./notifications.js";
import * as operations from "./operations.js";
import * as requests from "./requests.js";
import * as tracks from "./tracks.js";

const PARTS = { tracks, broadcasts, forum, notifications, requests, account, operations };
const FIRST = "tracks";

/** What all parts share. `on(socket, listener)` hears messages, and `{type: "open"}` each time it is connected. */
const site = {
  me: null,
  demo: null,
  sockets: {},
  listeners: new Map(),
  isStaff: () => site.me.roles.length > 0,
  decides: () => site.me.is_creator || site.me.is_admin,
  on(name, listener) {
    if (!site.listeners.has(name)) site.listeners.set(name, new Set());
    site.listeners.get(name).add(listener);
    return () => site.listeners.get(name).delete(listener);
  },
  tell(name, message) {
    for (const listener of site.listeners.get(name) ?? []) listener(message);
  },
  open(name, path) {
    site.sockets[name]?.close();
    site.sockets[name] = new Live(name, path, {
      onMessage: (message) => site.tell(name, message),
      onOpen: () => site.tell(name, { type: "open" }),
      onState: (state, code) => showSocket(name, state, code),
    });
    return site.sockets[name];
  },
  shut(name) {
    site.sockets[name]?.close();
    delete site.sockets[name];
    document.getElementById(`socket-${name}`)?.remove();
  },
  badge(part, count) {
    const badge = document.querySelector(`#tabs a[data-part="${part}"] .badge`);
    if (badge) badge.textContent = count > 0 ? String(count) : "";
    if (part === "notifications") document.title = count > 0 ? `(${count}) Encore, live` : "Encore, live";
  },
};

const WORDS = { live: "live", connecting: "connecting", reconnecting: "reconnecting", offline: "offline", refused: "signed out" };

function showSocket(name, state, code) {
  const id = `socket-${name}`;
  const item = document.getElementById(id) ?? document.getElementById("sockets").appendChild(h("li", { id }));
  item.dataset.state = state;
  item.textContent = `${name}: ${code && code !== 4501 && code !== 4502 ? `refused (${code})` : WORDS[state]}`;
  if (state === "refused") askWhoIAm();
}

let asking = false;

/** A socket that is refused may mean that this session was ended elsewhere. */
async function askWhoIAm() {
  if (asking || site.me === null) return;
  asking = true;
  try {
    if ((await maybe("/api/auth/me")) === null) {
      toast("You were signed out", { error: true });
      signedOut();
    }
  } catch {
    // The server is away; the sockets say so.
  } finally {
    asking = false;
  }
}

function signedOut() {
  for (const name of Object.keys(site.sockets)) site.shut(name);
  site.me = null;
  site.leave?.();
  site.leave = null;
  fill(document.getElementById("who"));
  fill(document.getElementById("tabs"));
  fill(document.getElementById("banner"));
  showSignIn();
}

async function showSignIn() {
  const pane = document.getElementById("pane");
  const people = await maybe("/api/demo/people");
  const enter = async (path, body) => {
    await post(path, body);
    await start();
  };
  fill(
    pane,
    h("h1", {}, "Sign in"),
    people &&
      h(
        "section",
        { className: "card" },
        h("p", {}, "This is the demonstration: one click, and you are one of them."),
        h(
          "div",
          { className: "people" },
          people.map((person) =>
            action([person.display_name || person.name, h("span", { className: "quiet" }, `@${person.name} · ${person.roles.join(", ") || "listener"}`)], () =>
              enter("/api/demo/sign-in", { name: person.name }),
            ),
          ),
        ),
        hint(),
      ),
    h(
      "div",
      { className: "columns" },
      h(
        "section",
        { className: "card" },
        h("h2", {}, "With a password"),
        form(
          [
            field("Username", "username", { required: true, autocomplete: "username", maxLength: 254 }),
            field("Password", "password", { type: "password", required: true, autocomplete: "current-password", maxLength: 1024 }),
          ],
          { submit: "Sign in", work: (values) => enter("/api/auth/login", values) },
        ),
      ),
      h(
        "section",
        { className: "card" },
        h("h2", {}, "New here"),
        form(
          [
            field("Username", "username", { required: true, autocomplete: "username", pattern: "[A-Za-z0-9_.\\-]{3,32}", title: "3 to 32 of A-Z a-z 0-9 _ . -" }),
            field("E-mail", "email", { type: "email", required: true, autocomplete: "email" }),
            field("Password", "password", { type: "password", required: true, autocomplete: "new-password", minLength: 8, maxLength: 1024 }),
          ],
          { submit: "Sign up", work: (values) => enter("/api/auth/signup", values) },
        ),
      ),
    ),
  );
}

/** Cookies are for all ports of a host, so a second person needs another name of this machine. */
function hint() {
  const other = location.hostname === "127.0.0.1" ? "localhost" : "127.0.0.1";
  const local = ["127.0.0.1", "localhost"].includes(location.hostname);
  if (!local) return h("p", { className: "quiet" }, "Open two windows, one of them private: two people, who see each other live.");
  const address = `http://${other}:${location.port}/`;
  return h(
    "p",
    { className: "quiet" },
    "Open two windows: for a second person use ",
    h("a", { href: address, target: "_blank", rel: "noopener" }, address),
    ", which has a session of its own.",
  );
}

function showWho() {
  fill(
    document.getElementById("who"),
    h("span", {}, h("b", {}, site.me.display_name || site.me.username), " ", h("span", { className: "quiet small" }, site.me.roles.join(", ") || "listener")),
    action("Sign out", async () => {
      await post("/api/auth/logout");
      signedOut();
    }),
  );
  fill(
    document.getElementById("tabs"),
    Object.entries(PARTS).map(([name, part]) =>
      h("a", { href: `#/${name}`, "data-part": name }, part.title, h("span", { className: "badge" })),
    ),
  );
}

/** Show the part that the address names: `#/forum/7` is thread 7. */
async function route() {
  if (site.me === null) return;
  const [, name, ...rest] = location.hash.split("/");
  const chosen = name in PARTS ? name : FIRST;
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.dataset.part === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  site.leave?.();
  const offs = [];
  let left = false;
  site.leave = () => {
    left = true;
    for (const off of offs) off();
  };
  const pane = fill(document.getElementById("pane"), empty("Loading…"));
  const scope = {
    path: rest.map(decodeURIComponent),
    on: (socket, listener) => offs.push(site.on(socket, listener)),
    onLeave: (act) => offs.push(act),
    isLeft: () => left,
  };
  try {
    await PARTS[chosen].show(pane, site, scope);
  } catch (error) {
    if (!left) fill(pane, h("div", { className: "card" }, h("p", { className: "bad" }, error.message), action("Try again", route)));
  }
}

async function start() {
  site.me = await maybe("/api/auth/me");
  if (site.me === null) {
    signedOut();
    return;
  }
  site.listeners.clear();
  showWho();
  broadcasts.watch(site);
  notifications.watch(site);
  requests.watch(site);
  site.open("broadcasts", "/api/creator/broadcast/ws");
  site.open("forum", "/api/forum/ws/v2");
  site.open("requests", "/ws/book-requests");
  if (site.decides()) site.open("queue", "/ws/book-requests/admin");
  await route();
  operations.footer(site);
}

window.addEventListener("hashchange", route);
start().catch((error) => fill(document.getElementById("pane"), h("p", { className: "card bad" }, error.message)));
