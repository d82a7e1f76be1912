// Asking the server. Errors carry what it says for people.

export class Refused extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

/** One request. `body` is sent as JSON, `form` as a form; the answer's JSON comes back, null without one. */
export async function ask(method, path, { body, form } = {}) {
  const options = { method, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  if (form !== undefined) options.body = form instanceof FormData ? form : new URLSearchParams(form);
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused(0, "offline", "The server cannot be reached");
  }
  const text = await answer.text();
  let found = null;
  try {
    found = text === "" ? null : JSON.parse(text);
  } catch {
    found = null;
  }
  if (!answer.ok) throw new Refused(answer.status, found?.code ?? "", found?.detail ?? `${method} ${path}: ${answer.status}`);
  return found;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, { body });
export const put = (path, body) => ask("PUT", path, { body });
export const patch = (path, body) => ask("PATCH", path, { body });
export const del = (path) => ask("DELETE", path);

/** The same, and null where it is not there, or not for this person. */
export async function maybe(path) {
  try {
    return await get(path);
  } catch (error) {
    if ([401, 403, 404].includes(error.status)) return null;
    throw error;
  }
}

/** A list as the server gives it: a page with `items`, or a plain one. */
export const items = (page) => (Array.isArray(page) ? page : (page?.items ?? []));
