// Prints the Khronos validator's report on each GLB as one JSON line; exit code 1 if any has an issue of any severity.
import { readFileSync } from "node:fs";
import validator from "gltf-validator";

let clean = true;
for (const path of process.argv.slice(2)) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(path)), { uri: path, maxIssues: 100 });
  const { numErrors, numWarnings, numInfos, numHints, messages } = report.issues;
  clean &&= numErrors + numWarnings + numInfos + numHints === 0;
  console.log(JSON.stringify({ path, numErrors, numWarnings, numInfos, numHints, messages, info: report.info }));
}
process.exit(clean ? 0 : 1);
