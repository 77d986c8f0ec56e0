"""What this machine has and lacks, each lack with the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.errors import MaquetteError

State = Literal["ok", "note", "lack"]
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the doctor. state: "ok", "note" (works, could be better), "lack" (something will fail)."""

    what: str
    state: State
    text: str
    mend: str = ""


def examine(store: str | None = None, models: str = "builtin") -> list[Finding]:
    """All findings, in the order they are shown. Never raises for what a machine may lack."""
    return [_python(), *_torch(), _memory(), *_store(store), *_models_folder(), _ffmpeg(), _blender(),
            *_weights(models), *_sets(models), _kernels()]


def _python() -> Finding:
    version = platform.python_version()
    text = f"{version} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("Python", "lack", text, "Install Python 3.11, 3.12 or 3.13")
    return Finding("Python", "ok", text)


def _torch() -> list[Finding]:
    from engine.runs.devices import nvidia_present
    try:
        import torch
    except ImportError as error:
        return [Finding("torch", "lack", f"cannot be imported: {error}", "pip install -c constraints.txt maquette")]
    built = torch.version.cuda or torch.version.hip
    build = f"built for CUDA {built}" if built else "CPU build"
    found = [Finding("torch", "ok", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(i).total_memory / GB
            found.append(Finding("GPU", "ok", f"cuda:{i} {torch.cuda.get_device_name(i)}, {memory:.0f} GB"))
    elif nvidia_present() and not built:
        found.append(Finding("GPU", "note", "GPU present, CPU torch",
                             "pip install --force-reinstall torch   (choose the CUDA build on pytorch.org)"))
    elif nvidia_present():
        found.append(Finding("GPU", "note", "GPU present, but torch cannot use it",
                             "Update the NVIDIA driver to one that fits CUDA " + str(built)))
    elif sys.platform == "darwin" and torch.backends.mps.is_available():
        found.append(Finding("GPU", "ok", "Apple GPU (--device mps, for the diffusion part)"))
    else:
        found.append(Finding("GPU", "note", "none: everything runs on the CPU"))
    return found


def _memory() -> Finding:
    total = total_memory()
    if total is None:
        return Finding("memory", "note", "cannot be told on this system")
    text = f"{total / GB:.1f} GB"
    if total < 3.5 * GB:
        return Finding("memory", "note", text + "; the standard quality may need up to 4 GB", "Use --quality draft")
    return Finding("memory", "ok", text)


def total_memory() -> int | None:
    """Bytes of memory of this machine, or None where the system does not tell."""
    import os
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        pass
    try:
        import psutil
        return int(psutil.virtual_memory().total)
    except ImportError:
        return None


def _store(store: str | None) -> list[Finding]:
    from engine.runs.store import Store
    try:
        opened = Store(Store.place(store))
    except MaquetteError as error:
        return [Finding("store", "lack", error.what, error.fix)]
    count = len(list(opened.keys()))
    found = [Finding("store", "ok", f"{opened.root} ({count} results kept)")]
    free = shutil.disk_usage(opened.root).free
    text = f"{free / GB:.1f} GB free beside the store"
    if free < 1 * GB:
        return [*found, Finding("disk", "lack", text, "Free some space, or choose another place with --store")]
    return [*found, Finding("disk", "ok", text)]


def _ffmpeg() -> Finding:
    try:
        from engine.clips.encode import ffmpeg_path
        path = ffmpeg_path()
    except ImportError as error:
        return Finding("ffmpeg", "lack", f"cannot be called: {error}", "pip install --force-reinstall imageio-ffmpeg")
    except MaquetteError as error:
        return Finding("ffmpeg", "lack", error.what, error.fix)
    return Finding("ffmpeg", "ok", Path(path).name)


BLENDERS = {"darwin": ("/Applications/Blender.app/Contents/MacOS/Blender",),
            "win32": ("C:/Program Files/Blender Foundation",)}
"""Where Blender's installers put it, by system; a folder holds one folder a version."""


def blender_path() -> Path | None:
    """Blender's program: MAQUETTE_BLENDER, on the path, or where its installer puts it; None where there is none."""
    import os
    if told := os.environ.get("MAQUETTE_BLENDER"):
        return Path(told) if Path(told).is_file() else None
    if found := shutil.which("blender"):
        return Path(found)
    places = [Path(place) for place in BLENDERS.get(sys.platform, ())]
    programs = [p for place in places for p in ([place] if place.is_file() else sorted(place.glob("*/blender.exe")))]
    return programs[-1] if programs else None


def _blender() -> Finding:
    found = blender_path()
    if found is None:
        return Finding("Blender", "note", "not found; only its add-on needs it",
                       "Install it from https://www.blender.org/download, or set MAQUETTE_BLENDER to its program")
    return Finding("Blender", "ok", str(found))


def _models_folder() -> list[Finding]:
    """Where public models lie, the room for more, and who is asked for them."""
    from engine.models import hub, local
    folder = local.models_folder()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = [Finding("models", "ok" if free > 20 * GB else "note", f"{folder} ({free / GB:.1f} GB free)",
                     "" if free > 20 * GB else "Large sets take 20 GB and more: MAQUETTE_MODELS names another folder")]
    if hub.offline():
        found.append(Finding("hub", "note", "HF_HUB_OFFLINE is set: nothing can be pulled", "Unset it to pull models"))
    else:
        who = "with a token" if hub.token() else "without a token (gated models need HF_TOKEN)"
        try:
            found.append(Finding("hub", "ok", f"{hub.endpoint()}, {who}"))
        except MaquetteError as error:
            found.append(Finding("hub", "lack", error.what, error.fix))
    return found


def _weights(models: str) -> list[Finding]:
    """The weights of the chosen set: all that making a mesh asks for must be here."""
    from engine.models.sets import CORE, model_set
    try:
        chosen = model_set(models)
    except MaquetteError as error:
        return [Finding("weights", "lack", error.what, error.fix)]
    found, good, spare = [], [], []
    for role in chosen.roles:
        try:
            if chosen.entry(role).builtin:
                chosen.digest(role)
            else:
                chosen.located(role)
            good.append(role)
        except MaquetteError as error:
            if role in CORE or chosen.entry(role).builtin:
                found.append(Finding("weights", "lack", f"{role}: {error.what}", error.fix))
            else:
                spare.append(role)
    if good:
        found.insert(0, Finding("weights", "ok", f"{models}: {', '.join(good)}"))
    if spare:
        found.append(Finding("weights", "note", f"{models}: not here: {', '.join(spare)}",
                             f"maquette models pull {models} --all   (or --role ROLE)"))
    return found


def _sets(chosen: str) -> list[Finding]:
    """Every other model set: whether it fits this machine, and what gets its weights."""
    from engine.models import catalogue, local
    from engine.models.machine import fit, this_machine
    from engine.models.sets import CORE
    machine, found = this_machine(), []
    where = "this GPU" if machine.gpu_bytes else "this machine's memory"
    for name, choices in catalogue.sets().items():
        if name in (chosen, "builtin"):
            continue
        core = [catalogue.model(id) for role, id in choices.items() if role in CORE]
        fits, need = fit(core[:1], machine)
        words = {"yes": f"fits {where}", "in turns": f"fits {where} with its parts in turns",
                 "no": f"does not fit {where}", "unknown": "may fit"}[fits]
        lacking = [one for model in core if not model.builtin for one in local.lacking(model)]
        text = f"{words} (about {need / GB:.0f} GB)"
        if not lacking:
            found.append(Finding(f"set {name}", "ok" if fits != "no" else "note", f"{text}; weights here"))
            continue
        gate = " (gated: it takes an account and HF_TOKEN)" if any(one.gated for one in lacking) else ""
        found.append(Finding(f"set {name}", "note", f"{text}; {len(lacking)} of its models are not here",
                             f"maquette models pull {name}{gate}" if fits != "no" else ""))
    return found


def _kernels() -> Finding:
    try:
        import warp
    except ImportError as error:
        return Finding("kernels", "lack", f"warp cannot be imported: {error}",
                       "pip install --force-reinstall warp-lang")
    folder = Path(warp.config.kernel_cache_dir or _warp_cache())
    compiled = len(list(folder.glob("*"))) if folder.is_dir() else 0
    text = f"warp {warp.config.version}, cache {folder}"
    if not compiled:
        return Finding("kernels", "note", text + ": empty; the first run compiles (about a minute)")
    return Finding("kernels", "ok", f"{text} ({compiled} modules)")


def _warp_cache() -> str:
    """Where this warp keeps its kernels when nothing is configured."""
    import warp
    try:
        from warp._src.build import appdirs  # type: ignore[import-not-found, import-untyped, unused-ignore]
        return str(appdirs.user_cache_dir(appname="warp", appauthor="NVIDIA", version=warp.config.version))
    except (ImportError, AttributeError):
        from engine.runs.files import user_cache_folder
        return str(user_cache_folder().parent / "warp" / warp.config.version)
