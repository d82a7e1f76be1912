// One WebSocket that comes back: with growing random pauses, at once when the machine is online or looked at again.

const FIRST_S = 0.5;
const LONGEST_S = 30;
const PING_S = 25;
const AFTER_RESTART_S = 5;
const NOTES = 200;

/** Everything that went over the sockets lately; also for the console, as `wsDebug`. */
export const notes = [];
const watchers = new Set();
window.wsDebug = { notes, sockets: {} };

export function watchNotes(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

function note(name, direction, message) {
  notes.push({ at: new Date(), name, direction, message });
  if (notes.length > NOTES) notes.shift();
  for (const watcher of watchers) watcher();
}

export class Live {
  /** `onOpen` is called each time it is connected: fetch then, what comes from now on is newer. */
  constructor(name, path, { onMessage, onOpen = () => {}, onState = () => {} }) {
    Object.assign(this, { name, path, onMessage, onOpen, onState });
    this.state = "connecting";
    this.tries = 0;
    this.ended = false;
    this.wake = () => {
      if (document.visibilityState === "visible" && this.waiting) this.connect();
    };
    window.addEventListener("online", this.wake);
    document.addEventListener("visibilitychange", this.wake);
    window.wsDebug.sockets[name] = this;
    this.connect();
  }

  connect() {
    clearTimeout(this.timer);
    this.waiting = false;
    if (this.ended) return;
    this.set(this.tries === 0 ? "connecting" : "reconnecting");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = (this.socket = new WebSocket(`${scheme}://${location.host}${this.path}`));
    socket.addEventListener("open", () => {
      this.tries = 0;
      this.set("live");
      this.pinging = setInterval(() => this.send({ type: "ping" }), PING_S * 1000);
      this.onOpen();
    });
    socket.addEventListener("message", (event) => {
      let message;
      try {
        message = JSON.parse(event.data);
      } catch {
        return;
      }
      note(this.name, "in", message);
      this.onMessage(message);
    });
    socket.addEventListener("close", (event) => this.lost(event.code));
  }

  lost(code) {
    clearInterval(this.pinging);
    if (this.ended) return;
    note(this.name, "closed", { code });
    if (code >= 4500 && code < 4600) {
      this.set("refused", code);
      return;
    }
    this.waiting = true;
    if (!navigator.onLine) {
      this.set("offline");
      return;
    }
    const restarts = code === 1012 || code === 1013;
    const longest = restarts ? AFTER_RESTART_S : Math.min(LONGEST_S, FIRST_S * 2 ** this.tries);
    this.tries += 1;
    this.set("reconnecting");
    this.timer = setTimeout(() => this.connect(), Math.random() * longest * 1000);
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    if (message.type !== "ping") note(this.name, "out", message);
    return true;
  }

  close() {
    this.ended = true;
    clearTimeout(this.timer);
    clearInterval(this.pinging);
    window.removeEventListener("online", this.wake);
    document.removeEventListener("visibilitychange", this.wake);
    delete window.wsDebug.sockets[this.name];
    this.socket.close();
  }

  set(state, code) {
    this.state = state;
    this.onState(state, code);
  }
}
