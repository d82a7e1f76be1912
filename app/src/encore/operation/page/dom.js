// Building the page. Texts go in as texts: nothing here takes HTML but `safeHtml`, which copies what it knows.

/** An element. `attributes` may hold `on`, listeners by event; what is null, false or undefined is left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name in element && typeof value !== "string" && name !== "list") {
      element[name] = value;
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Let an element have these children and no others. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const ALLOWED = new Set(
  "A ABBR B BLOCKQUOTE BR CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR I LI OL P PRE S SPAN STRONG SUB SUP TABLE TBODY TD TH THEAD TR UL".split(" "),
);

/** HTML that the server has made safe, copied element by element: what is not in the list stays as its text. */
export function safeHtml(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const copy = (node) => {
    if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
    if (node.nodeType !== Node.ELEMENT_NODE) return "";
    const children = [...node.childNodes].map(copy);
    if (!ALLOWED.has(node.tagName)) return children;
    const element = document.createElement(node.tagName);
    const target = node.getAttribute("href") ?? "";
    if (node.tagName === "A" && /^(https?:\/\/|\/(?!\/)|#)/.test(target)) {
      element.href = target;
      element.rel = "nofollow noopener noreferrer";
    }
    if (node.classList.contains("mention")) element.className = "chip";
    element.append(...children.flat(99));
    return element;
  };
  return h("div", { className: "html" }, [...parsed.body.childNodes].map(copy));
}

const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

/** How long ago, with the full time as the title. */
export function when(text) {
  if (!text) return "";
  const moment = new Date(text);
  const minutes = Math.round((moment.getTime() - Date.now()) / 60000);
  const [amount, unit] =
    Math.abs(minutes) < 60 ? [minutes, "minute"] : Math.abs(minutes) < 1440 ? [Math.round(minutes / 60), "hour"] : [Math.round(minutes / 1440), "day"];
  const shown = minutes === 0 ? "now" : relative.format(amount, unit);
  return h("time", { dateTime: moment.toISOString(), title: moment.toLocaleString() }, shown);
}

/** Seconds as 1:23. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const TOASTS = 3;

/** News that stands elsewhere too: three at most, gone after six seconds unless they are looked at. */
export function toast(text, { error = false } = {}) {
  const region = document.getElementById("toasts");
  const element = h("div", { className: error ? "toast error" : "toast" }, text);
  element.prepend(h("button", { className: "plain", type: "button", title: "Close", on: { click: () => element.remove() } }, "×"));
  region.append(element);
  while (region.children.length > TOASTS) region.firstElementChild.remove();
  const leave = () => (element.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : element.remove());
  setTimeout(leave, 6000);
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") document.getElementById("toasts").replaceChildren();
});

/** A button that is off while it works, and says what went wrong. */
export function action(text, work, attributes = {}) {
  const button = h("button", { type: "button", ...attributes }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await work();
    } catch (error) {
      toast(error.message, { error: true });
    } finally {
      button.disabled = false;
    }
  });
  return button;
}

/** A form whose `work` gets the values by name; cleared when it went well. */
export function form(fields, { submit, work, keep = false, className = "" }) {
  const element = h("form", { className }, fields, h("div", { className: "row" }, h("button", { className: "main" }, submit)));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element.querySelector("button.main");
    button.disabled = true;
    try {
      await work(Object.fromEntries(new FormData(element)), element);
      if (!keep) element.reset();
    } catch (error) {
      toast(error.message, { error: true });
    } finally {
      button.disabled = false;
    }
  });
  return element;
}

export function field(label, name, attributes = {}) {
  const tag = attributes.tag ?? "input";
  const { tag: _, options, ...rest } = attributes;
  const choices = (options ?? []).map((option) => h("option", { value: Array.isArray(option) ? option[0] : option }, Array.isArray(option) ? option[1] : option));
  return h("label", {}, label, h(tag, { name, ...rest }, choices));
}

/** `1 vote`, `3 votes`. */
export const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

export function empty(text) {
  return h("p", { className: "quiet" }, text);
}
