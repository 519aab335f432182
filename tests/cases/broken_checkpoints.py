"""A checkpoint of a tiny run, and copies of it that are damaged in one way each."""
import json
import os
import shutil
import subprocess


def flip(path, where):
    """Flips a bit at a fraction of the file."""
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        at = min(size - 1, int(size * where))
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def cut(path, left):
    os.truncate(path, int(os.path.getsize(path) * left))


def change_manifest(directory, change):
    path = os.path.join(directory, "manifest.json")
    with open(path, encoding="utf-8") as file:
        manifest = json.load(file)
    change(manifest)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(manifest, file, sort_keys=True)


def text(directory, name, value):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        file.write(value)


DAMAGE = {
    "ckpt_good": lambda d: None,
    "manifest_missing": lambda d: os.remove(os.path.join(d, "manifest.json")),
    "manifest_empty": lambda d: text(d, "manifest.json", ""),
    "manifest_flipped": lambda d: flip(os.path.join(d, "manifest.json"), 0.5),
    "manifest_cut": lambda d: cut(os.path.join(d, "manifest.json"), 0.7),
    "manifest_format": lambda d: change_manifest(d, lambda m: m.update(format="other-ckpt")),
    "manifest_newer": lambda d: change_manifest(d, lambda m: m.update(version={"major": 9, "minor": 0})),
    "manifest_step": lambda d: change_manifest(d, lambda m: m.update(step=7)),
    "manifest_deep": lambda d: text(d, "manifest.json", "[" * 100000),
    "shard_missing": lambda d: os.remove(os.path.join(d, "shard-00000.h5")),
    "shard_cut": lambda d: cut(os.path.join(d, "shard-00000.h5"), 0.6),
    "shard_flipped": lambda d: flip(os.path.join(d, "shard-00000.h5"), 0.5),
    "sidecar_missing": lambda d: os.remove(os.path.join(d, "shard-00000.json")),
    "sidecar_flipped": lambda d: flip(os.path.join(d, "shard-00000.json"), 0.5),
    "sidecar_cut": lambda d: cut(os.path.join(d, "shard-00000.json"), 0.5),
    "config_flipped": lambda d: flip(os.path.join(d, "config.ini"), 0.3),
}


def write_broken_checkpoints(binary, folder):
    """Returns name -> directory. The run itself is {run_dir}."""
    run = os.path.join(folder, "run")
    subprocess.run([binary, "train", "run.ini", f"--run.dir={run}"], cwd=folder, check=True, timeout=120)
    good = os.path.join(run, "checkpoints", "step-000000000002")
    out = {"run_dir": run}
    for name, damage in DAMAGE.items():
        directory = os.path.join(folder, "damaged", name, "step-000000000002")
        shutil.copytree(good, directory)
        damage(directory)
        out[name] = directory
    other = os.path.join(folder, "other")
    subprocess.run([binary, "train", "run.ini", f"--run.dir={other}", "--train.seed=9"], cwd=folder, check=True, timeout=120)
    out["other_run"] = other
    return out
