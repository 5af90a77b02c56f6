// Bundles src/main.js. Three quarters of Spark are WebAssembly that reads files, makes levels of detail, and sorts; a page
// needs the sorting, which src/worker.js has in a few lines. It takes the place of Spark's worker.

import { readFile } from "node:fs/promises";
import { build } from "esbuild";

const common = { bundle: true, minify: true, format: "iife", target: "es2022", legalComments: "none" };

// Of Spark's module, what is replaced, and by what. Each must be there once.
const CHANGES = [
  [/const WASM = decode64\("[^"]*"\)\.buffer;\nconst WASM_MODULE = [^\n]*\n/, "const WASM_MODULE = Promise.resolve();\n"],
  [/const initialization = __wbg_init\([^;]*;\s*\}\s*\);\n/, "const initialization = Promise.resolve();\n"],
  [/const jsContent = '.*';\n/, 'import jsContent from "worker-source";\n'],
];

const plugin = {
  name: "spark without WebAssembly",
  setup({ onLoad, onResolve }) {
    onResolve({ filter: /^worker-source$/ }, ({ path }) => ({ path, namespace: "worker" }));
    onLoad({ filter: /.*/, namespace: "worker" }, async () => {
      const { outputFiles } = await build({ ...common, entryPoints: ["src/worker.js"], write: false });
      return { contents: outputFiles[0].text, loader: "text" };
    });
    onLoad({ filter: /spark\.module\.js$/ }, async ({ path }) => {
      let contents = await readFile(path, "utf8");
      for (const [pattern, text] of CHANGES) {
        if (contents.split(pattern).length !== 2) throw new Error(`${path} does not have ${pattern} exactly once`);
        contents = contents.replace(pattern, () => text);
      }
      return { contents };
    });
  },
};

await build({
  ...common, entryPoints: ["src/main.js"], outfile: "build/bundle.js", plugins: [plugin],
  logOverride: { "empty-import-meta": "silent" },
});
