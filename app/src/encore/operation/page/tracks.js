// A track with its player and the comments on it; creators upload.

import { ask, del, get, items, maybe, post, put } from "./api.js";
import { action, clock, counted, empty, field, fill, form, h, svg, toast, when } from "./dom.js";

export const title = "Tracks";

const TYPING_S = 3;
const SHOWN_S = 6;

export async function show(pane, site, scope) {
  site.shut("track");
  if (scope.path.length > 0) await showTrack(pane, site, scope, Number(scope.path[0]));
  else await showAll(pane, site, scope);
}

async function showAll(pane, site, scope) {
  const [albums, tracks] = await Promise.all([get("/api/albums?limit=50"), get("/api/tracks?limit=50")]);
  if (scope.isLeft()) return;
  fill(
    pane,
    h("h1", {}, "Tracks"),
    h(
      "section",
      { className: "card" },
      items(tracks).length === 0 && empty("There is no music yet. A creator can upload some below; `encore seed --demo` makes some."),
      h(
        "ul",
        { className: "list" },
        items(tracks).map((track) =>
          h(
            "li",
            {},
            h("div", { className: "head" }, h("a", { href: `#/tracks/${track.id}` }, h("b", {}, track.title)), h("span", { className: "quiet" }, `${track.artist || track.creator.display_name} · ${clock(track.duration_s)} · ${counted(track.play_count, "play")}`)),
            track.album_title && h("div", { className: "quiet small" }, track.album_title),
          ),
        ),
      ),
    ),
    site.isStaff() && h("section", { className: "card" }, h("h2", {}, "Upload"), upload(items(albums).filter((album) => album.creator.id === site.me.id))),
  );
}

function upload(albums) {
  return form(
    [
      field("Audio file", "audio", { type: "file", accept: "audio/*", required: true }),
      field("Title (empty: that in the file)", "title", { maxLength: 200 }),
      albums.length > 0 && field("Album", "album_id", { tag: "select", options: [["", "none"], ...albums.map((album) => [album.id, album.title])] }),
    ],
    {
      submit: "Upload",
      work: async (values, element) => {
        const body = new FormData(element);
        for (const [name, value] of [...body.entries()]) if (value === "") body.delete(name);
        const track = await ask("POST", "/api/tracks", { form: body });
        location.hash = `#/tracks/${track.id}`;
      },
    },
  );
}

async function showTrack(pane, site, scope, id) {
  const track = await get(`/api/tracks/${id}`);
  const state = { comments: new Map(), typing: new Map(), replyTo: null };
  const audio = h("audio", { controls: true, preload: "metadata", src: track.audio_url });
  const wave = svg("svg", { class: "wave", viewBox: "0 0 600 96", preserveAspectRatio: "none", role: "img", "aria-label": "Waveform with the comments on it" });
  const list = h("ul", { className: "list", role: "log" });
  const typing = h("div", { className: "typing" });
  const seek = (seconds) => {
    audio.currentTime = seconds;
    audio.play().catch(() => {});
  };
  const draw = () => {
    drawList(list, site, track, state, seek);
    drawMarks(wave, track, state);
  };
  const box = composer(site, track, state, audio);
  fill(
    pane,
    h("p", {}, h("a", { href: "#/tracks" }, "← All tracks")),
    h("h1", {}, track.title),
    h("p", { className: "quiet" }, `${track.artist || track.creator.display_name} · `, h("span", {}, counted(track.play_count, "play")), track.album_title ? ` · ${track.album_title}` : ""),
    h("section", { className: "card stack" }, wave, audio),
    h("div", { className: "columns" }, h("section", { className: "card" }, h("h2", {}, "Comments"), typing, list), h("section", { className: "card" }, box)),
  );
  wave.addEventListener("click", (event) => {
    const place = wave.getBoundingClientRect();
    seek(((event.clientX - place.left) / place.width) * track.duration_s);
  });
  audio.addEventListener("play", () => post(`/api/tracks/${id}/play`).catch(() => {}), { once: true });
  keepPosition(audio, id, scope);
  audio.addEventListener("timeupdate", () => drawPlayed(wave, audio.currentTime / track.duration_s));
  scope.on("track", (message) => take(message, { site, id, state, draw, typing }).catch(() => {}));
  scope.onLeave(() => site.shut("track"));
  site.open("track", `/api/ws/track/${id}`);
  drawWave(wave, await maybe(track.peaks_url));
}

/** The socket is open first; then the comments are fetched, and what came meanwhile is newer. */
async function take(message, { site, id, state, draw, typing }) {
  if (message.type === "open") {
    const found = items(await get(`/api/tracks/${id}/comments?limit=100`));
    state.comments = new Map(found.map((comment) => [comment.id, comment]));
    draw();
  } else if (message.type === "new_comment") {
    state.comments.set(message.comment.id, { ...message.comment, isFresh: true });
    draw();
  } else if (message.type === "comment_edited") {
    const comment = state.comments.get(message.comment_id);
    if (comment) Object.assign(comment, { content: message.content, is_edited: true });
    draw();
  } else if (message.type === "comment_deleted") {
    state.comments.delete(message.comment_id);
    for (const comment of state.comments.values()) if (comment.parent_id === message.comment_id) comment.parent_id = null;
    draw();
  } else if (message.type === "mention") {
    toast(`${message.from_user.display_name || message.from_user.username} at ${clock(message.comment.timestamp)}: ${message.comment.content}`);
  } else if (message.type === "user_typing") {
    showTyping(typing, state, message);
  } else if (message.type === "error") {
    toast(message.message, { error: true });
  }
}

export function showTyping(element, state, { user_id: who, username, is_typing: types }) {
  clearTimeout(state.typing.get(who)?.timer);
  state.typing.delete(who);
  const draw = () => {
    const names = [...state.typing.values()].map((one) => one.username);
    element.textContent = names.length === 0 ? "" : names.length > 2 ? `${names.length} people are typing…` : `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing…`;
  };
  if (types) {
    const forget = () => {
      state.typing.delete(who);
      draw();
    };
    state.typing.set(who, { username, timer: setTimeout(forget, SHOWN_S * 1000) });
  }
  draw();
}

/** Tells that somebody types, once in three seconds at most. */
export function typingSignal(send) {
  let last = 0;
  return (isTyping) => {
    if (isTyping && Date.now() - last < TYPING_S * 1000) return;
    last = isTyping ? Date.now() : 0;
    send(isTyping);
  };
}

function composer(site, track, state, audio) {
  const at = h("input", { name: "timestamp", type: "number", min: "0", step: "0.1", max: String(track.duration_s), value: "0" });
  const text = h("textarea", { name: "content", required: true, maxLength: 2000, placeholder: "What happens here? @name mentions somebody", "aria-label": "Comment" });
  const reply = h("div", { className: "small" });
  const signal = typingSignal((isTyping) => site.sockets.track?.send({ type: "typing", is_typing: isTyping }));
  state.answer = (comment) => {
    state.replyTo = comment;
    fill(reply, comment && ["Answering ", h("b", {}, comment.username), " ", action("not", async () => state.answer(null), { className: "plain" })]);
    if (comment) {
      at.value = String(comment.timestamp);
      text.focus();
    }
  };
  text.addEventListener("focus", () => {
    if (!state.replyTo) at.value = audio.currentTime.toFixed(1);
  });
  text.addEventListener("input", () => signal(true));
  if (track.comments_closed && !site.isStaff()) return empty("Comments on this track are closed.");
  return form([h("h2", {}, "Comment at the playhead"), reply, text, h("label", {}, "At second", at)], {
    submit: "Comment",
    work: async (values) => {
      const body = { content: values.content, timestamp: values.timestamp };
      if (state.replyTo) body.parent_id = String(state.replyTo.id);
      await ask("POST", `/api/tracks/${track.id}/comments`, { form: body });
      signal(false);
      state.answer(null);
    },
  });
}

function drawList(list, site, track, state, seek) {
  const sorted = [...state.comments.values()].sort((one, other) => one.timestamp - other.timestamp || one.id - other.id);
  const answers = Map.groupBy ? Map.groupBy(sorted.filter((one) => one.parent_id !== null), (one) => one.parent_id) : groups(sorted);
  const row = (comment) => {
    const mine = comment.user_id === site.me.id;
    return h(
      "li",
      { className: `${comment.isFresh ? "fresh" : ""} ${comment.parent_id === null ? "" : "reply"}` },
      h("div", { className: "head" }, h("button", { className: "plain", type: "button", title: "Play from here", on: { click: () => seek(comment.timestamp) } }, clock(comment.timestamp)), h("b", {}, comment.display_name || comment.username), when(comment.created_at), comment.is_edited && h("span", { className: "quiet" }, "edited")),
      h("div", { className: "text" }, comment.content),
      h(
        "div",
        { className: "row" },
        action("Reply", async () => state.answer(comment), { className: "plain" }),
        mine &&
          action("Edit", async () => {
            const content = prompt("The comment", comment.content);
            if (content !== null) await ask("PUT", `/api/comments/${comment.id}`, { form: { content } });
          }, { className: "plain" }),
        (mine || site.isStaff()) && action("Delete", () => del(`/api/comments/${comment.id}`), { className: "plain" }),
      ),
    );
  };
  const tops = sorted.filter((one) => one.parent_id === null || !state.comments.has(one.parent_id));
  const below = (comment) => [row(comment), (answers.get(comment.id) ?? []).map(below)];
  fill(list, sorted.length === 0 ? h("li", {}, empty("No comments yet. Play, and write the first one.")) : tops.map(below));
}

function groups(comments) {
  const found = new Map();
  for (const comment of comments) if (comment.parent_id !== null) found.set(comment.parent_id, [...(found.get(comment.parent_id) ?? []), comment]);
  return found;
}

const BARS = 200;

function drawWave(wave, peaks) {
  const data = peaks?.data ?? [];
  const pairs = data.length / 2;
  for (let bar = 0; bar < BARS; bar += 1) {
    let [low, high] = [0, 0];
    for (let pair = Math.floor((bar * pairs) / BARS); pair < Math.max(Math.floor(((bar + 1) * pairs) / BARS), 1); pair += 1) {
      low = Math.min(low, data[2 * pair] ?? 0);
      high = Math.max(high, data[2 * pair + 1] ?? 0);
    }
    const x = (bar + 0.5) * (600 / BARS);
    wave.append(svg("line", { class: "bar", x1: x, x2: x, y1: 44 - (high / 128) * 42 - 0.5, y2: 44 - (low / 128) * 42 + 0.5 }));
  }
}

function drawPlayed(wave, part) {
  wave.querySelectorAll(".bar").forEach((bar, number) => bar.classList.toggle("played", number / BARS < part));
}

function drawMarks(wave, track, state) {
  wave.querySelectorAll(".mark").forEach((mark) => mark.remove());
  for (const comment of state.comments.values()) {
    const mark = svg("circle", { class: "mark", cx: Math.min(Math.max((comment.timestamp / track.duration_s) * 600, 4), 596), cy: 90, r: 4 });
    mark.append(svg("title"));
    mark.firstChild.textContent = `${comment.username}: ${comment.content}`;
    wave.append(mark);
  }
}

/** Where one stopped is kept, so that another device can go on there. */
async function keepPosition(audio, id, scope) {
  const path = `/api/tracks/${id}/position`;
  const found = await maybe(path).catch(() => null);
  if (found && found.position_s > 5) audio.currentTime = found.position_s;
  const keep = () => put(path, { position_s: audio.currentTime }).catch(() => {});
  audio.addEventListener("pause", keep);
  scope.onLeave(() => {
    if (!audio.paused) keep();
    audio.pause();
  });
}
