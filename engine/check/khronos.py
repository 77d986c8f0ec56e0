"""The Khronos glTF validator, where Node and its package are: what it says, as findings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from engine.meshes.finding import Finding, Severity

LEVELS: tuple[Severity, ...] = ("error", "warning", "info", "hint")
"""By the validator's own numbers."""
LARGEST = 1_000_000_000
MOST_MESSAGES = 200
SECONDS = 300
MEND = "install Node 18 or newer, then: npm install -g gltf-validator"

SCRIPT = r"""
const fs = require("fs"), path = require("path");
const validator = require(process.argv[1]);
const file = fs.realpathSync(process.argv[2]), folder = path.dirname(file);
const beside = uri => {  // files in the document's own folder, and no others
  const found = fs.realpathSync(path.join(folder, decodeURIComponent(uri)));
  if (!found.startsWith(folder + path.sep)) throw new Error("outside of the folder");
  return new Uint8Array(fs.readFileSync(found));
};
validator.validateBytes(new Uint8Array(fs.readFileSync(file)), { uri: path.basename(file),
    maxIssues: Number(process.argv[3]), externalResourceFunction: async uri => beside(uri) })
  .then(report => process.stdout.write(JSON.stringify(report)))
  .catch(error => process.stdout.write(JSON.stringify({ failed: String(error) })));
"""


@cache
def node_modules(package: str) -> Path | None:
    """The folder of an npm package: under MAQUETTE_NODE_MODULES, in a checkout's test tools, or installed globally."""
    places = [Path(told)] if (told := os.environ.get("MAQUETTE_NODE_MODULES")) else []
    places.append(Path(__file__).parents[2] / "tests" / "tools" / "node_modules")
    for place in places:
        if (place / package / "package.json").is_file():
            return place / package
    npm = shutil.which("npm")
    if npm is None:
        return None
    try:
        done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    place = Path(done.stdout.strip() or ".") / package
    return place if (place / "package.json").is_file() else None


def validate(path: Path) -> tuple[list[Finding], str, dict[str, Any]]:
    """-> (findings, "gltf-validator VERSION" or why it did not run, the validator's own figures)."""
    node = shutil.which("node")
    package = node_modules("gltf-validator") if node else None
    if node is None or package is None:
        return [], f"not run: {'Node' if node is None else 'its package gltf-validator'} is missing; {MEND}", {}
    if path.stat().st_size > LARGEST:
        return [], f"not run: the file has more than {LARGEST:,} bytes", {}
    try:
        done = subprocess.run([node, "-e", SCRIPT, str(package), str(path), str(MOST_MESSAGES)], capture_output=True,
                              text=True, timeout=SECONDS, check=False, encoding="utf-8")
        report = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [], f"not run to its end: it took more than {SECONDS} s", {}
    except (OSError, ValueError) as error:
        return [], f"did not run: {' '.join(str(error).split())[:120]}", {}
    if "failed" in report:
        text = f"the validator cannot read it: {' '.join(str(report['failed']).split())[:160]}"
        return [Finding("error", "unreadable", text, source="khronos")], "gltf-validator", {}
    told = [Finding(LEVELS[one["severity"]], str(one["code"]), str(one["message"])[:300], str(one.get("pointer", "")),
                    "khronos") for one in report["issues"]["messages"]]
    return told, f"gltf-validator {report.get('validatorVersion', '')}".strip(), report.get("info", {})
