// All routes and sockets to read, from the documents that the server gives out.

import { get } from "./api.js";
import { fill, h } from "./dom.js";

const nameOf = (reference) => reference.split("/").at(-1);

/** A schema in a line: `{title: string, items: [TrackAnswer]}`. */
function shape(schema) {
  if (!schema) return "";
  if (schema.$ref) return nameOf(schema.$ref);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const several = schema.anyOf ?? schema.oneOf ?? schema.allOf;
  if (several) return several.map(shape).join(" | ");
  if (schema.type === "array") return `[${shape(schema.items)}]`;
  if (schema.properties) return fieldsOf(schema).join(", ");
  return schema.type ?? "anything";
}

const fieldsOf = (schema) =>
  Object.entries(schema.properties ?? {}).map(([name, field]) => `${name}${schema.required?.includes(name) ? "" : "?"}: ${shape(field)}`);

/** Prose with `code` in it. */
const prose = (text) => (text ?? "").split("`").map((part, number) => (number % 2 ? h("code", {}, part) : part));

function route(method, path, operation) {
  const body = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses);
  const good = answers.filter(([status]) => status < "300");
  return h(
    "details",
    { className: "card" },
    h("summary", {}, h("code", {}, h("b", {}, method.toUpperCase()), ` ${path}`)),
    h("p", { className: "text" }, prose(operation.description)),
    (operation.parameters ?? []).length > 0 && h("p", {}, "Takes ", operation.parameters.map((one) => h("span", {}, h("code", {}, `${one.name}: ${shape(one.schema)}`), ` (${one.in}${one.required ? ", needed" : ""}) `))),
    body.map(([kind, content]) => h("p", {}, `Body, ${kind}: `, h("code", {}, shape(content.schema)))),
    good.map(([status, answer]) => h("p", {}, `${status}: `, h("code", {}, shape(Object.values(answer.content ?? {})[0]?.schema) || "nothing"))),
    h("p", { className: "quiet small" }, `Else ${answers.map(([status]) => status).filter((status) => status >= "300").join(", ")}`),
  );
}

function socket(channel, { components }) {
  return h(
    "details",
    { className: "card" },
    h("summary", {}, h("code", {}, h("b", {}, "WS"), ` ${channel.address}`)),
    h("p", {}, channel.description),
    Object.values(channel.messages).map((one) => {
      const message = components.messages[nameOf(one.$ref)];
      const schema = components.schemas[nameOf(message.payload.$ref)];
      return h("p", {}, h("b", {}, message.name), message.summary ? [" · ", prose(message.summary)] : "", h("br"), h("code", {}, fieldsOf(schema).join(", ")));
    }),
  );
}

async function show() {
  const [openapi, asyncapi] = await Promise.all([get("/openapi.json"), get("/asyncapi.json")]);
  const operations = Object.entries(openapi.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]) => ({ method, path, operation })));
  fill(
    document.getElementById("pane"),
    h("h1", {}, "Routes and sockets"),
    h("p", {}, "For programs: ", h("a", { href: "/openapi.json" }, "OpenAPI"), " and ", h("a", { href: "/asyncapi.json" }, "AsyncAPI"), "."),
    h("h2", {}, "Sockets"),
    h("p", { className: "text" }, prose(asyncapi.info.description)),
    Object.values(asyncapi.channels).map((channel) => socket(channel, asyncapi)),
    openapi.tags.map((tag) => {
      const own = operations.filter(({ operation }) => operation.tags.includes(tag.name));
      return own.length === 0 ? null : [h("h2", {}, tag.description), own.map(({ method, path, operation }) => route(method, path, operation))];
    }),
    h("h2", {}, "Shapes"),
    Object.entries(openapi.components.schemas).map(([name, schema]) => h("details", { className: "card", id: name }, h("summary", {}, h("code", {}, name)), h("p", { className: "text" }, prose(schema.description)), fieldsOf(schema).map((line) => h("div", {}, h("code", {}, line))))),
  );
}

show().catch((error) => fill(document.getElementById("pane"), h("p", { className: "card bad" }, error.message)));
