// Serves a folder on the loopback address and prints its port: a page there may use modules and fetch, as a site's may.
// What the page posts to /told is printed as one line. three.js comes from this folder's node_modules under /three/. Ends when its standard input ends.
import { createServer } from "node:http";
import { readFileSync, realpathSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = realpathSync(process.argv[2]);
const three = realpathSync(path.join(path.dirname(fileURLToPath(import.meta.url)), "node_modules", "three"));
const kinds = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm", ".glb": "model/gltf-binary" };
const server = createServer((request, answer) => {
  if (request.method === "POST") {
    const parts = [];
    request.on("data", part => parts.push(part));
    request.on("end", () => { console.log(Buffer.concat(parts).toString()); answer.end(); });
    return;
  }
  const asked = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const [base, rest] = asked.startsWith("/three/") ? [three, asked.slice(7)] : [root, asked.slice(1)];
  const file = path.join(base, rest);
  try {
    if (!file.startsWith(base + path.sep)) throw new Error("outside");
    const data = readFileSync(file);
    answer.writeHead(200, { "Content-Type": kinds[path.extname(file)] ?? "application/octet-stream" });
    answer.end(data);
  } catch {
    answer.writeHead(404);
    answer.end();
  }
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
