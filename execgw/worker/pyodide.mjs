// Runs CPython as WebAssembly (the npm package pyodide) like an interpreter: node pyodide.mjs -c PROGRAM
//
// The package is looked for in $EXECGW_PYODIDE, the working directory and beside this file, and in what is above them.
// For a worker:  cmd=node /path/of/pyodide.mjs//python=pyodide  (docs/guide/interpreters.md)

import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

function giveUp(code, text) {
  writeSync(2, text + "\n");
  process.exit(code);
}

function find() {
  const folders = [process.env.EXECGW_PYODIDE, process.cwd(), dirname(fileURLToPath(import.meta.url))].filter(Boolean);
  for (const folder of folders) {
    try {
      return createRequire(resolve(folder) + "/").resolve("pyodide/pyodide.mjs");
    } catch (e) {
      if (e.code !== "MODULE_NOT_FOUND") throw e;
    }
  }
  giveUp(3, `pyodide.mjs: the npm package pyodide is not in ${folders.join(", ")} or above; ` +
    "install it: npm install pyodide, or name its folder: EXECGW_PYODIDE=/path");
}

// Node makes a stream of each of these when it is first asked for, and its descriptor non-blocking for good.  Then
// os.read(0) would be a loop that looks and sleeps.
for (const [fd, name] of ["stdin", "stdout", "stderr"].entries())
  Object.defineProperty(process, name, { value: { fd, isTTY: false, write: (text) => writeSync(fd, text) } });

const at = process.argv.indexOf("-c");
if (at < 0 || at + 1 >= process.argv.length) giveUp(2, "usage: node pyodide.mjs -c PROGRAM");
const { loadPyodide } = await import(pathToFileURL(find()).href);
const python = await loadPyodide();
try {
  python.runPython("import sys; sys.argv[:] = ['-c']; del sys");
  python.runPython(process.argv[at + 1]);
} catch (e) {
  if (e.status !== undefined) process.exit(e.status); // os._exit()
  if (e.type !== "SystemExit") giveUp(1, e.message);
  // sys.exit(): nothing or None is 0, a number is itself, a text is shown and is 1
  const said = e.message.trimEnd().split(/SystemExit:? ?/).pop();
  if (/^-?\d+$/.test(said)) process.exit(Number(said) & 255);
  if (said !== "" && said !== "None") giveUp(1, said);
}
process.exit(0);
