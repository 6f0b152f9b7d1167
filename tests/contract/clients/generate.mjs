// Usage: node generate.mjs MODULES SCHEMAS OUTPUT. Does with the published schemas what other teams do: generates Java
// and TypeScript models from the AsyncAPI document, compiles the latter with client.ts, and compiles the JSON Schemas.
// Prints what went wrong, as JSON.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const [modules, schemas, output] = process.argv.slice(2);
const require = createRequire(path.join(modules, "package.json"));
const { JAVA_JACKSON_PRESET, JavaGenerator, TypeScriptGenerator } = require("@asyncapi/modelina");
const { Parser } = require("@asyncapi/parser");
const { default: Ajv } = require("ajv/dist/2020");
const { default: addFormats } = require("ajv-formats");
const ts = require("typescript");

async function generate(generator, document, language, options) {
  const folder = path.join(output, language);
  fs.mkdirSync(folder, { recursive: true });
  for (const model of await generator.generateCompleteModels(document, options)) {
    if (model.modelName) { // a value of any type needs no class in Java
      fs.writeFileSync(path.join(folder, `${model.modelName}.${language}`), model.result);
    }
  }
}

function typeScriptFaults() {
  const client = path.join(output, "ts", "client.ts");
  fs.copyFileSync(fileURLToPath(new URL("client.ts", import.meta.url)), client);
  const program = ts.createProgram([client], { strict: true, noEmit: true, types: [], lib: ["lib.es2020.d.ts"] });
  return ts.getPreEmitDiagnostics(program).map((fault) => ts.flattenDiagnosticMessageText(fault.messageText, " "));
}

function jsonSchemaFaults(file) {
  const ajv = addFormats(new Ajv({ strict: true }));
  try {
    ajv.compile(JSON.parse(fs.readFileSync(path.join(schemas, file))));
    return [];
  } catch (error) {
    return [`${file}: ${error.message}`];
  }
}

const { document, diagnostics } = await new Parser().parse(fs.readFileSync(path.join(schemas, "asyncapi.yaml"), "utf8"));
await generate(new JavaGenerator({ collectionType: "List", presets: [JAVA_JACKSON_PRESET] }), document, "java", {
  packageName: "messages",
});
await generate(
  new TypeScriptGenerator({ modelType: "interface", mapType: "record", rawPropertyNames: true, enumType: "union" }),
  document,
  "ts",
  { moduleSystem: "ESM" },
);
const files = fs.readdirSync(schemas).filter((file) => file.endsWith(".schema.json"));
console.log(
  JSON.stringify({
    asyncapi: diagnostics.map(({ code, path, message }) => `${code}: ${path.join(".")}: ${message}`),
    typescript: typeScriptFaults(),
    "JSON Schema": files.flatMap(jsonSchemaFaults),
  }),
);
