"""Exports under the programs that take them: Khronos' validator, Blender, Godot, three.js. Run by `make test-tools`."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import small_asset
from PIL import Image
from test_tools_gallery import CHROMIUM

from engine.check.files import check_file
from engine.export import compress
from engine.export.bundle import place, profile_files
from engine.export.profiles import PROFILES, profile
from engine.meshes.asset import GameAsset

TOOLS = Path(__file__).parent / "tools"
OWN_BPY = TOOLS.parents[1] / ".venv-bpy" / "bin" / "python"
BPY = os.environ.get("MAQUETTE_BPY") or (str(OWN_BPY) if OWN_BPY.is_file() else "")
GODOT = next((found for name in ("godot3-server", "godot-server") if (found := shutil.which(name))), None)
needs_bpy = pytest.mark.skipif(not BPY, reason="no Blender module (bpy) on this machine")
needs_godot = pytest.mark.skipif(GODOT is None, reason="no Godot 3 server on this machine")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
pytestmark = pytest.mark.tools


@pytest.fixture(scope="module")
def asset() -> GameAsset:
    return small_asset(size=256)


def verdicts(paths: list[Path]) -> list[dict[str, Any]]:
    done = subprocess.run(["node", str(TOOLS / "validate.mjs"), *map(str, paths)], check=False, capture_output=True,
                          text=True)
    assert done.stdout, f"the validator did not run: {done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def assets() -> list[GameAsset]:
    """With and without light maps, normal maps, emission, colliders, own pictures a level, one level, many vertices."""
    from dataclasses import replace
    made = [small_asset(f"A{k}", levels=1 + k % 4, lightmap=bool(k & 1), emissive=bool(k & 2), normal=bool(k & 4),
                        colliders=k % 3, own_pictures=k % 5 == 0, size=16 << k % 3) for k in range(18)]
    clear = small_asset("Clear")
    rgba = np.concatenate([clear.material.base_color, clear.material.base_color[..., :1]], -1)
    made.append(replace(clear, material=replace(clear.material, base_color=rgba, alpha="BLEND", double_sided=True)))
    made.append(replace(clear, name="Mask", material=replace(clear.material, base_color=rgba, alpha="MASK")))
    return made


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "print"])
def test_the_validator_is_silent_on_twenty_assets_of_every_profile(name: str, tmp_path: Path) -> None:
    every = assets()
    assert len(every) == 20
    paths: list[Path] = []
    for k, one in enumerate(every):
        # gltf-transform takes seconds a file: a few assets go through it, all through Draco.
        ways = (["meshopt", "draco"] if k < 3 else ["draco"]) if name == "web" else ["none"]
        for way in ways:
            if way == "meshopt" and compress._transform() is None:
                pytest.fail("gltf-transform is missing: make test-tools installs it")
            folder = tmp_path / f"{k}_{way}"
            written = place(profile_files(one, profile(name), ("glb",), compression=way), folder)
            paths += [path for path in written if path.suffix == ".glb"]
    told = verdicts(paths)
    assert len(told) == len(paths) >= 20
    for verdict in told:
        assert [verdict[k] for k in ("numErrors", "numWarnings", "numHints")] == [0, 0, 0], verdict
        for said in verdict["messages"]:
            light_map = said["code"] == "UNUSED_OBJECT" and said["pointer"].endswith("TEXCOORD_1")
            closed = name == "web" and said["code"] == "UNSUPPORTED_EXTENSION"
            # The validator does not know Draco: what only Draco's extension points at looks unused to it.
            dracos = ("_draco" in verdict["path"] and said["code"] == "UNUSED_OBJECT"
                      and re.fullmatch(r"/bufferViews/\d+", said["pointer"]))
            assert light_map or closed or dracos, said


def test_check_passes_the_validators_words_on(asset: GameAsset, tmp_path: Path) -> None:
    place(profile_files(asset, profile("godot"), ("glb",)), tmp_path)
    report = check_file(tmp_path / "Mug.glb", "godot")
    assert report.tools["khronos"].startswith("gltf-validator 2") and report.exit_code() == 0
    assert {one.code for one in report.findings if one.source == "khronos"} == {"UNUSED_OBJECT"}
    from test_foreign import far_index, written

    from engine.export.glb import unpack
    bad = written(tmp_path / "bad.glb", unpack((tmp_path / "Mug.glb").read_bytes()), far_index)
    report = check_file(bad)
    assert "ACCESSOR_INDEX_OOB" in {one.code for one in report.findings if one.source == "khronos"}
    assert report.exit_code() == 1


# -- Blender -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def imported(asset: GameAsset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Blender makes of each format: object -> bounds, triangles, material."""
    folder = tmp_path_factory.mktemp("blender")
    patch = pytest.MonkeyPatch()
    patch.setenv("MAQUETTE_BPY", BPY)
    formats = ["glb", "obj", "fbx", *(["usdc", "usdz"] if _has_usd() else [])]
    place(profile_files(asset, profile("blender"), formats), folder)
    patch.undo()
    told = {}
    for format in formats:
        done = subprocess.run([BPY, str(TOOLS / "reimport.py"), str(folder / f"Mug.{format}")], capture_output=True,
                              text=True, check=False, timeout=300)
        lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD")]
        assert lines, done.stderr[-2000:]
        told[format] = json.loads(lines[0][4:])
    return told


def _has_usd() -> bool:
    import importlib.util
    return importlib.util.find_spec("pxr") is not None


@needs_bpy
def test_blender_reads_the_same_bounds_triangles_and_materials(imported: dict[str, dict[str, Any]], asset: GameAsset
                                                               ) -> None:
    for format, told in imported.items():
        main = told["Mug" if format.startswith("usd") else "Mug_LOD0"]
        # Blender is Z up: our x, y, z stand as x, -z, y.
        assert np.allclose(main["low"], [-0.3, -0.3, 0], atol=1e-5), format
        assert np.allclose(main["high"], [0.3, 0.3, 1], atol=1e-5), format
        assert main["triangles"] == 576, format
        shown = main["material"]
        assert shown["Base Color"] == "Mug_base_color 256x256" and shown["Normal"] == "Mug_normal 256x256", format
        if format == "fbx":
            assert shown["Metallic"] == pytest.approx(asset.material.flat_metallic, abs=0.01)
            assert shown["Roughness"] == pytest.approx(asset.material.flat_roughness, abs=0.01)
        elif format == "obj":
            assert (shown["Metallic"], shown["Roughness"]) == ("Mug_metallic 256x256", "Mug_roughness 256x256")
        else:
            assert (shown["Metallic"], shown["Roughness"]) == ("Mug_orm 256x256",) * 2
            assert main["uvs"] == 2
    for format in ("glb", "fbx"):
        assert {name: one["triangles"] for name, one in imported[format].items()} == {
            "Mug_LOD0": 576, "Mug_LOD1": 160, "Mug_LOD2": 48, "Mug_LOD3": 16, "Mug_col00": 12, "Mug_col01": 12}


@needs_bpy
def test_fbx_has_the_engines_names_and_no_paths_of_this_machine(asset: GameAsset, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAQUETTE_BPY", BPY)
    bundle = profile_files(asset, profile("unreal"), ("fbx",))
    data = bundle.files["Mug.fbx"]
    assert b"LodGroup" in data and b"UCX_Mug_LOD0_00" in data and b"textures/Mug_normal_dx.png" in data
    assert b"/tmp" not in data and b"maquette-fbx" not in data and str(tmp_path).encode() not in data
    assert "textures/Mug_normal_dx.png" in bundle.files and "textures/Mug_orm.png" in bundle.files


# -- Godot -------------------------------------------------------------------------------------------------------------

@needs_godot
def test_godot_imports_the_godot_profile(asset: GameAsset, tmp_path: Path) -> None:
    project = tmp_path / "project"
    place(profile_files(asset, profile("godot"), ("glb",)), project)
    (project / "project.godot").write_text('config_version=4\n\n[application]\n\nconfig/name="check"\n',
                                           encoding="ascii")
    shutil.copy(TOOLS / "check.gd", project / "check.gd")
    home = {**os.environ, "HOME": str(tmp_path / "home"), "XDG_DATA_HOME": str(tmp_path / "data"),
            "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    files = [path.name for path in sorted(project.glob("*.glb"))]
    # The editor imports and then stays: it is ended as soon as every file has its scene.
    editor = subprocess.Popen([str(GODOT), "--path", str(project), "--editor", "--quit"], env=home,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if len(list(project.glob(".import/*.scn"))) >= len(files) or editor.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(1)
    finally:
        editor.kill()
        editor.wait()
    done = subprocess.run([str(GODOT), "--path", str(project), "-s", "check.gd", *files], env=home, capture_output=True,
                          text=True, timeout=120, check=False)
    told = {one["name"]: one for one in (json.loads(line[4:]) for line in done.stdout.splitlines()
                                         if line.startswith("TOLD"))}
    assert set(told) == set(files), done.stdout[-2000:] + done.stderr[-2000:]
    main = told["Mug.glb"]
    assert [one["name"] for one in main["meshes"]] == ["Mug"]  # colliders are not shown
    mesh = main["meshes"][0]
    assert np.allclose(mesh["low"], [-0.3, 0, -0.3], atol=1e-3) and np.allclose(mesh["high"], [0.3, 1, 0.3], atol=1e-3)
    assert mesh["triangles"] == 576 and mesh["material"]["albedo"] == [256, 256]
    assert mesh["material"]["metallic"] == pytest.approx(0.9) and mesh["material"]["roughness"] == pytest.approx(0.8)
    assert mesh["material"]["normal"] and mesh["material"]["metallic_texture"] and mesh["material"]["roughness_texture"]
    assert [(one["shape"], one["static"]) for one in main["bodies"]] == [("ConvexPolygonShape", True)] * 2
    assert all(one["points"] >= 8 for one in main["bodies"])
    assert [told[f"Mug_LOD{k}.glb"]["meshes"][0]["triangles"] for k in (1, 2, 3)] == [160, 48, 16]


# -- three.js ----------------------------------------------------------------------------------------------------------

PAGE = """<!doctype html><body style="margin:0"><script type="importmap">{"imports": {
"three": "/three/build/three.module.js", "three/addons/": "/three/examples/jsm/"}}</script><script type="module">
import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";
import { DRACOLoader } from "three/addons/loaders/DRACOLoader.js";
import { MeshoptDecoder } from "three/addons/libs/meshopt_decoder.module.js";
const say = told => fetch("/told", { method: "POST", body: JSON.stringify(told) });
try {
  const draco = new DRACOLoader().setDecoderPath("/three/examples/jsm/libs/draco/gltf/");
  const loader = new GLTFLoader().setMeshoptDecoder(MeshoptDecoder).setDRACOLoader(draco);
  const gltf = await loader.loadAsync("Mug.glb");
  let triangles = 0, look = null;
  gltf.scene.updateMatrixWorld(true);
  gltf.scene.traverse(thing => { if (thing.isMesh) { triangles += thing.geometry.index.count / 3; look = thing.material;
    thing.material = new THREE.MeshBasicMaterial({ map: look.map }); } });
  const box = new THREE.Box3().setFromObject(gltf.scene, true);
  const scene = new THREE.Scene(); scene.background = new THREE.Color(0xffffff); scene.add(gltf.scene);
  const camera = new THREE.OrthographicCamera(-0.6, 0.6, 1.1, -0.1, 0.1, 10); camera.position.set(0, 0, 3);
  const renderer = new THREE.WebGLRenderer({ antialias: false, preserveDrawingBuffer: true });
  renderer.setSize(256, 256); document.body.append(renderer.domElement); renderer.render(scene, camera);
  say({ triangles, low: box.min.toArray(), high: box.max.toArray(),
    metalness: look.metalness, roughness: look.roughness,
    shared: look.aoMap === look.metalnessMap || look.aoMap.source === look.metalnessMap.source,
    normal: look.normalMap !== null, image: [look.map.image.width, look.map.image.height],
    extras: gltf.asset.extras.prompt, picture: renderer.domElement.toDataURL() });
} catch (error) { say({ failed: String(error && error.stack || error) }); }
</script></body>"""


def our_render(asset: GameAsset, size: int) -> np.ndarray:
    """(size, size, 3): the first level from the front, its base colour unlit on white, by our rasteriser."""
    import torch

    from engine.kernels.raster import interpolate, rasterize
    lod, base = asset.lods[0], asset.material.base_color
    v = lod.vertices
    clip = np.stack([v[:, 0] / 0.6, (v[:, 1] - 0.5) / 0.6, -v[:, 2] / 10, np.ones(len(v))], -1).astype(np.float32)
    faces = torch.from_numpy(lod.faces)
    triangle, weights, _ = rasterize(torch.from_numpy(clip), faces, size, size)
    at = interpolate(torch.from_numpy(lod.uvs), faces, triangle, weights)[None] * 2 - 1
    picture = torch.nn.functional.grid_sample(torch.from_numpy(base).permute(2, 0, 1)[None], at, align_corners=False)
    shown = picture[0].permute(1, 2, 0).numpy()
    return np.where((triangle >= 0).numpy()[..., None], shown, 1.0)


@needs_chromium
@pytest.mark.parametrize("way", ["meshopt", "draco"])
def test_three_js_shows_the_web_profile(way: str, asset: GameAsset, tmp_path: Path) -> None:
    place(profile_files(asset, profile("web"), ("glb",), compression=way), tmp_path)
    (tmp_path / "index.html").write_text(PAGE, encoding="utf-8")
    server = subprocess.Popen(["node", str(TOOLS / "three.mjs"), str(tmp_path)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        browser = subprocess.Popen(
            [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
             "--remote-debugging-port=0", f"http://127.0.0.1:{port}/index.html"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        try:
            ready, _, _ = select.select([server.stdout], [], [], 300)
            assert ready, "the page said nothing"
            told = json.loads(server.stdout.readline())
        finally:
            browser.kill()
            browser.wait()
    finally:
        server.kill()
        server.wait()
    assert "failed" not in told, told
    assert told["triangles"] == 576 and told["image"] == [256, 256] and told["extras"] == "a red mug"
    assert np.allclose(told["low"], [-0.3, 0, -0.3], atol=1e-3) and np.allclose(told["high"], [0.3, 1, 0.3], atol=1e-3)
    assert told["metalness"] == pytest.approx(0.9) and told["roughness"] == pytest.approx(0.8)
    assert told["shared"] and told["normal"]
    import base64
    import io
    data = base64.b64decode(told["picture"].split(",")[1])
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((256, 256)), float) / 255
    ours = our_render(asset, 256)
    mine, other = (ours.min(-1) < 0.99), (theirs.min(-1) < 0.99)
    assert (mine & other).sum() / (mine | other).sum() > 0.98  # the same silhouette
    inside = mine & other
    assert np.abs(ours - theirs)[inside].mean() < 0.03  # the same colours, but for WebP's loss
