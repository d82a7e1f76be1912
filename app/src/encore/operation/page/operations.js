// How the replica is that answers, and the broker switch of the demonstration.

import { maybe, post } from "./api.js";
import { figure } from "./broadcasts.js";
import { action, empty, fill, h, when } from "./dom.js";
import { notes, watchNotes } from "./live.js";

export const title = "Operations";

const EVERY_S = 2;

export function footer(site) {
  maybe("/status").then(
    (status) => {
      if (status && site.me) document.getElementById("replica").textContent = `replica ${status.replica} · ${status.mode}`;
    },
    () => {},
  );
}

export async function show(pane, site, scope) {
  const body = h("div", {});
  const broker = h("section", { className: "card" });
  const log = h("pre", { className: "log", tabIndex: 0, "aria-label": "Messages" });
  fill(
    pane,
    h("h1", {}, "Operations"),
    h("div", { className: "columns" }, broker, h("section", { className: "card" }, h("h2", {}, "What goes over the sockets"), log)),
    body,
  );
  const drawLog = () => {
    log.textContent = notes
      .slice(-60)
      .reverse()
      .map((note) => `${note.at.toLocaleTimeString()} ${note.name} ${{ in: "←", out: "→", closed: "×" }[note.direction]} ${JSON.stringify(note.message)}`)
      .join("\n");
  };
  scope.onLeave(watchNotes(drawLog));
  drawLog();
  let before = null;
  const draw = async () => {
    const status = await maybe("/status");
    if (scope.isLeft()) return;
    if (status === null) fill(body, h("div", { className: "card" }, empty("The figures are for staff and operators.")));
    else drawStatus(body, status, before);
    before = status;
    await drawBroker(broker, status);
  };
  const timer = setInterval(() => draw().catch(() => {}), EVERY_S * 1000);
  scope.onLeave(() => clearInterval(timer));
  await draw();
}

async function drawBroker(element, status) {
  const found = await maybe("/api/demo/broker");
  const bus = status?.bus;
  const words = { up: ["good", "Messages cross replicas."], local: ["quiet", "There is no bus: this replica is on its own."], degraded: ["bad", "Local only: others may see this late."], suspect: ["warn", "The connection to the bus is being made anew."] };
  const [tone, text] = words[bus?.state] ?? ["quiet", "Unknown."];
  const order = (what, label, attributes) =>
    action(label, async () => {
      await post("/api/demo/broker", { action: what });
      await drawBroker(element, await maybe("/status"));
    }, attributes);
  fill(
    element,
    h("h2", {}, "The bus between the replicas"),
    bus && h("p", { role: "status" }, h("b", { className: tone }, bus.state), bus.reason ? ` (${bus.reason})` : "", ` · ${text}`),
    bus && h("p", { className: "quiet small" }, `${bus.replicas ?? 1} replicas · ${bus.waiting} publications wait · ${bus.flushed} went out later · ${bus.duplicates} copies dropped`),
    found
      ? [
          h("p", {}, "The broker is ", h("b", {}, found.state), "."),
          h(
            "div",
            { className: "row" },
            found.state === "up" && [order("stop", "Simulate an outage", { className: "main" }), order("freeze", "Freeze it")],
            found.state === "killed" && order("start", "Start it again", { className: "main" }),
            found.state === "frozen" && order("thaw", "Thaw it", { className: "main" }),
          ),
        ]
      : h("p", { className: "quiet" }, "There is no switch here: `encore demo` has one."),
  );
}

function rate(now, before, of) {
  if (!before || before.replica !== now.replica || now.uptime_s <= before.uptime_s) return "–";
  return ((of(now) - of(before)) / (now.uptime_s - before.uptime_s)).toFixed(1);
}

function drawStatus(element, status, before) {
  const { totals } = status;
  fill(
    element,
    h(
      "section",
      { className: "card" },
      h("h2", {}, `Replica ${status.replica}`),
      h("p", { className: "quiet small" }, "since ", when(status.started_at), ` · encore ${status.version} · ${status.mode}`, status.draining && h("b", { className: "warn" }, " · draining"), " · behind the shared port, the next question may reach another replica"),
      h(
        "div",
        { className: "figures" },
        figure(totals.connections, "sockets here"),
        figure(rate(status, before, (one) => one.totals.delivered), "delivered a second"),
        figure(totals.published, "published"),
        figure(totals.delivered, "delivered"),
        figure(totals.lost, "slow or broken clients ended"),
        figure(totals.dropped_slow, "messages dropped for slow clients"),
      ),
      h(
        "div",
        { className: "table", tabIndex: 0, role: "region", "aria-label": "Channels" },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["Channel", "State", "Here", "People", "Topics", "All replicas", "People", "Published", "Delivered", "Behind"].map((name) => h("th", { scope: "col" }, name)))),
          h(
            "tbody",
            {},
            status.channels.map((channel) =>
              h(
                "tr",
                {},
                h("th", { scope: "row" }, channel.channel),
                [channel.state, channel.connections, channel.users, channel.topics, channel.cluster.connections + (channel.cluster.complete ? "" : "+"), channel.cluster.users, channel.published, channel.delivered, channel.queued_connections].map((value) => h("td", {}, String(value))),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
