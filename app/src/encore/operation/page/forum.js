// The forum: threads, messages, likes, search; what moderators do.

import { del, get, items, maybe, patch, post, put } from "./api.js";
import { action, counted, empty, field, fill, form, h, safeHtml, toast, when } from "./dom.js";
import { showTyping, typingSignal } from "./tracks.js";

export const title = "Forum";

const API = "/api/forum";

export async function show(pane, site, scope) {
  if (scope.path.length > 0) await showThread(pane, site, scope, Number(scope.path[0]));
  else await showIndex(pane, site, scope);
}

async function showIndex(pane, site, scope) {
  const list = h("ul", { className: "list" });
  const found = h("div", {});
  const draw = async () => {
    const threads = items(await get(`${API}/threads?limit=50`));
    if (scope.isLeft()) return;
    fill(list, threads.length === 0 ? h("li", {}, empty("No threads yet: begin one.")) : threads.map(threadRow));
  };
  fill(
    pane,
    h("h1", {}, "Forum"),
    h(
      "div",
      { className: "columns" },
      h("section", { className: "card" }, searchForm(found), found, list),
      h(
        "section",
        { className: "card" },
        h("h2", {}, "Begin a thread"),
        form(
          [
            field("Title", "title", { required: true, maxLength: 200 }),
            field("Message (Markdown)", "content", { tag: "textarea", required: true, maxLength: 8000 }),
            h("label", { className: "inline" }, h("input", { type: "checkbox", name: "is_private" }), "private: only members know of it"),
            field("Members, by name, separated by spaces", "members", {}),
          ],
          {
            submit: "Begin",
            work: async (values) => {
              const body = { title: values.title, content: values.content };
              if (values.is_private) Object.assign(body, { is_private: true, member_ids: await idsOf(values.members) });
              const begun = await post(`${API}/threads`, body);
              location.hash = `#/forum/${(begun.thread ?? begun).id}`;
            },
          },
        ),
      ),
      site.isStaff() && h("section", { className: "card" }, await everyoneSwitch(site), await reports(site)),
    ),
  );
  scope.on("forum", (message) => {
    if (["open", "new_thread_created", "thread_deleted", "forum_notification_count"].includes(message.type)) draw().catch(() => {});
  });
  await draw();
}

async function idsOf(names) {
  const ids = [];
  for (const name of names.split(/[\s,]+/).filter(Boolean)) {
    const member = (await get(`${API}/members?q=${encodeURIComponent(name)}`)).find((one) => one.username.toLowerCase() === name.toLowerCase());
    if (!member) throw new Error(`There is nobody called ${name}`);
    ids.push(member.user_id);
  }
  return ids;
}

const messages = (thread) => counted(thread.message_count, "message");

function threadRow(thread) {
  return h(
    "li",
    { className: thread.unread_count > 0 ? "unread" : "" },
    h(
      "div",
      { className: "head" },
      h("a", { href: `#/forum/${thread.id}` }, h("b", {}, thread.title)),
      thread.unread_count > 0 && h("span", { className: "badge" }, String(thread.unread_count)),
      thread.is_pinned && h("span", { className: "chip" }, "pinned"),
      thread.is_locked && h("span", { className: "chip" }, "locked"),
      thread.is_private && h("span", { className: "chip" }, "private"),
    ),
    h("div", { className: "quiet small" }, `${thread.username} · ${messages(thread)} · last by ${thread.last_message_username ?? thread.username} `, when(thread.last_message_at)),
  );
}

function searchForm(found) {
  return form([h("div", { className: "row" }, h("input", { className: "grow", name: "q", type: "search", placeholder: "Search the forum", "aria-label": "Search the forum", maxLength: 100 }))], {
    submit: "Search",
    keep: true,
    work: async ({ q }) => {
      const asked = `${API}/search?q=${encodeURIComponent(q)}`;
      const hits = q.trim() === "" ? null : (await Promise.all([get(`${asked}&what=threads`), get(asked)])).flatMap(items);
      fill(
        found,
        hits && h("h2", {}, `Found ${hits.length}`),
        hits && h("ul", { className: "list" }, hits.map((hit) => h("li", {}, h("a", { href: `#/forum/${hit.thread_id}` }, hit.title), h("div", { className: "quiet" }, hit.excerpt)))),
      );
    },
  });
}

async function everyoneSwitch(site) {
  const state = await maybe(`${API}/everyone-mention`);
  if (state === null || !site.me.is_admin) return null;
  const element = h("p", {});
  const draw = (now) =>
    fill(
      element,
      h("b", {}, "@everyone"),
      now ? " notifies everybody. " : " is switched off. ",
      action(now ? "Switch it off" : "Switch it on", async () => {
        const answer = await (now ? del(`${API}/everyone-mention`) : post(`${API}/everyone-mention`));
        draw(answer.enabled);
      }),
    );
  return draw(state.enabled);
}

/** What people reported, for those who decide it. */
async function reports(site) {
  if (!site.isStaff()) return null;
  const element = h("div", {});
  const draw = async () => {
    const open = items(await get(`${API}/reports`));
    const decide = (report, outcome) => async () => {
      await post(`${API}/reports/${report.id}/resolve`, { outcome });
      await draw();
    };
    fill(
      element,
      h("h2", {}, `Reports (${open.length})`),
      open.length === 0 && empty("Nobody has reported anything."),
      h(
        "ul",
        { className: "list" },
        open.map((report) =>
          h(
            "li",
            {},
            h("div", {}, h("b", {}, report.reporter_username), ` about ${report.username}: ${report.reason}`),
            h("div", { className: "quote text small" }, report.content),
            h("div", { className: "row" }, action("Dismiss", decide(report, "dismissed")), action("Remove the message", decide(report, "removed"))),
          ),
        ),
      ),
    );
  };
  await draw();
  return element;
}

async function showThread(pane, site, scope, id) {
  const state = { thread: await get(`${API}/threads/${id}`), messages: new Map(), typing: new Map(), replyTo: null };
  const head = h("div", {});
  const below = h("ul", { className: "list" });
  const list = h("ul", { className: "list", role: "log" });
  const typing = h("div", { className: "typing" });
  const signal = typingSignal((isTyping) => site.sockets.forum.send({ type: "typing", thread_id: id, is_typing: isTyping }));
  const draw = () => {
    drawHead(head, site, state, () => load().catch(() => {}));
    drawMessages(list, site, state);
  };
  const load = async () => {
    const [thread, subThreads, page] = await Promise.all([get(`${API}/threads/${id}`), get(`${API}/threads/${id}/sub-threads`), get(`${API}/threads/${id}/messages?order=desc&limit=100`)]);
    if (scope.isLeft()) return;
    state.thread = thread;
    fill(below, items(subThreads).map(threadRow));
    state.messages = new Map(items(page).map((message) => [message.id, message]));
    draw();
    put(`${API}/threads/${id}/read`, {}).catch(() => {});
  };
  const reply = h("div", { className: "small" });
  const text = h("textarea", { name: "content", required: true, maxLength: 8000, placeholder: "Markdown; @name mentions somebody", "aria-label": "Message" });
  text.addEventListener("input", () => signal(true));
  state.answer = (message) => {
    state.replyTo = message;
    fill(reply, message && ["Answering ", h("b", {}, message.username), " ", action("not", async () => state.answer(null), { className: "plain" })]);
    if (message) text.focus();
  };
  fill(
    pane,
    h("p", {}, h("a", { href: "#/forum" }, "← All threads"), state.thread.parent_thread_id && [" · ", h("a", { href: `#/forum/${state.thread.parent_thread_id}` }, "the thread above")]),
    head,
    below,
    h("section", { className: "card" }, list, typing),
    h(
      "section",
      { className: "card" },
      form([reply, text], {
        submit: "Send",
        work: async (values) => {
          const body = { content: values.content };
          if (state.replyTo) body.reply_to_id = state.replyTo.id;
          const sent = await post(`${API}/threads/${id}/messages`, body);
          if (!state.messages.has(sent.id)) state.messages.set(sent.id, sent);
          signal(false);
          state.answer(null);
          draw();
        },
      }),
    ),
  );
  scope.on("forum", (message) => {
    if (message.type === "open") site.sockets.forum.send({ type: "subscribe", thread_id: id });
    else if (message.thread_id === id) takeMessage(message, { site, state, draw, load, typing });
  });
  scope.onLeave(() => site.sockets.forum?.send({ type: "unsubscribe", thread_id: id }));
  site.sockets.forum.send({ type: "subscribe", thread_id: id });
  await load();
}

/** What the thread's topic says. A state with a higher revision is the newer one. */
function takeMessage(message, { site, state, draw, load, typing }) {
  const known = state.messages.get(message.message_id);
  const isNews = known && (message.revision ?? Infinity) >= (known.revision ?? 0);
  switch (message.type) {
    case "subscribed":
      load().catch(() => {});
      return;
    case "unsubscribed":
      if (message.reason === "access_lost") location.hash = "#/forum";
      return;
    case "new_message":
      state.messages.set(message.message.id, { is_liked: false, isFresh: true, ...message.message });
      state.thread.message_count = message.message_count;
      put(`${API}/threads/${message.thread_id}/read`, {}).catch(() => {});
      break;
    case "message_edited":
      if (isNews) Object.assign(known, { content: message.content, content_html: message.content_html, is_edited: true, revision: message.revision });
      break;
    case "message_deleted":
      if (message.is_moved) state.messages.delete(message.message_id);
      else if (isNews) Object.assign(known, { is_deleted: true, content: "", content_html: "", revision: message.revision });
      break;
    case "message_liked":
    case "message_unliked":
      if (isNews) {
        Object.assign(known, { like_count: message.like_count, revision: message.revision });
        if ((message.liked_by_user_id ?? message.unliked_by_user_id) === site.me.id) known.is_liked = message.type === "message_liked";
      }
      break;
    case "thread_updated":
      state.thread = { ...state.thread, ...message.thread };
      break;
    case "thread_deleted":
      toast("This thread is gone");
      location.hash = "#/forum";
      return;
    case "new_sub_thread_created":
      toast(`A sub-thread was begun: ${message.sub_thread.title}`);
      break;
    case "user_typing":
      showTyping(typing, state, message);
      return;
    default:
      return;
  }
  draw();
}

function drawHead(element, site, state, again) {
  const { thread } = state;
  const at = `${API}/threads/${thread.id}`;
  const then = (work) => async () => {
    await work();
    again();
  };
  fill(
    element,
    h("h1", {}, thread.title),
    h(
      "div",
      { className: "row" },
      h("span", { className: "quiet" }, `by ${thread.username} · ${messages(thread)}`),
      thread.is_locked && h("span", { className: "chip" }, `locked${thread.lock_reason ? `: ${thread.lock_reason}` : ""}`),
      thread.is_pinned && h("span", { className: "chip" }, "pinned"),
      action(thread.is_following ? "Do not follow" : "Follow", then(() => (thread.is_following ? del(`${at}/follow`) : post(`${at}/follow`)))),
      action("Sub-thread", () => beginBelow(at)),
      thread.is_private &&
        action("Let somebody in", async () => {
          const name = prompt("Whom, by name?");
          for (const member of name ? await idsOf(name) : []) await put(`${at}/members/${member}`);
        }),
      site.isStaff() && [
        action(thread.is_pinned ? "Unpin" : "Pin", then(() => (thread.is_pinned ? del(`${at}/pin`) : post(`${at}/pin`)))),
        action("Move", () => move(at, "Below which thread (its number; nothing: into the index)?", "parent_thread_id").then(again)),
        action(thread.is_locked ? "Unlock" : "Lock", then(() => (thread.is_locked ? del(`${at}/lock`) : post(`${at}/lock`, { reason: prompt("Why?") ?? "" })))),
      ],
      (site.isStaff() || thread.user_id === site.me.id) && [
        action("Rename", async () => {
          const wanted = prompt("Title", thread.title);
          if (wanted) await then(() => patch(at, { title: wanted }))();
        }),
        action("Delete", async () => {
          if (!confirm("Delete the thread and everything in it?")) return;
          await del(at);
          location.hash = "#/forum";
        }),
      ],
    ),
  );
}

async function beginBelow(at) {
  const wanted = prompt("Title of the sub-thread");
  const content = wanted && prompt("Its first message");
  if (!content) return;
  const begun = await post(`${at}/sub-threads`, { title: wanted, content });
  location.hash = `#/forum/${begun.thread.id}`;
}

/** The number of a thread stands at the end of its address. */
async function move(at, question, name) {
  const wanted = prompt(question);
  if (wanted !== null) await post(`${at}/move`, { [name]: wanted.trim() === "" ? null : Number(wanted) });
}

async function showEdits(at) {
  for (const edit of items(await get(`${at}/edits`)).slice(0, 3)) toast(edit.content);
}

function drawMessages(list, site, state) {
  const sorted = [...state.messages.values()].sort((one, other) => one.number - other.number);
  fill(
    list,
    sorted.map((message) => {
      const at = `${API}/messages/${message.id}`;
      const mine = message.user_id === site.me.id;
      return h(
        "li",
        { className: message.isFresh ? "fresh" : "" },
        h("div", { className: "head" }, h("b", {}, message.display_name || message.username), message.roles.map((role) => h("span", { className: "chip" }, role)), when(message.created_at), message.is_edited && h("span", { className: "quiet" }, "edited")),
        message.reply_to && h("div", { className: "quote small" }, `${message.reply_to.username}: ${message.reply_to.excerpt}`),
        message.is_deleted ? h("p", { className: "quiet" }, "removed") : safeHtml(message.content_html),
        !message.is_deleted &&
          h(
            "div",
            { className: "row" },
            action(`${message.is_liked ? "♥" : "♡"} ${message.like_count}`, async () => {
              const answer = await (message.is_liked ? del(`${at}/like`) : post(`${at}/like`));
              message.is_liked = !message.is_liked;
              if (answer) message.like_count = answer.like_count;
              drawMessages(list, site, state);
            }, { className: "plain", "aria-label": `Like (${message.like_count})` }),
            action("Reply", async () => state.answer(message), { className: "plain" }),
            action("Sub-thread", () => beginBelow(at), { className: "plain" }),
            message.is_edited && action("What it said before", () => showEdits(at), { className: "plain" }),
            mine &&
              action("Edit", async () => {
                const content = prompt("The message (Markdown)", message.content);
                if (content !== null) await patch(at, { content });
              }, { className: "plain" }),
            site.isStaff() && action("Move", () => move(at, "Into which thread (its number)?", "thread_id"), { className: "plain" }),
            (mine || site.isStaff()) && action("Remove", () => del(at), { className: "plain" }),
            !mine &&
              action("Report", async () => {
                const reason = prompt("What is wrong with it?");
                if (reason) await post(`${at}/report`, { reason });
              }, { className: "plain" }),
          ),
      );
    }),
  );
}
