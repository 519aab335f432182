"""Parity folders that are wrong in one way each, made from the reference results in tests/golden."""
import json
import os
import shutil
import struct


def read_safetensors(path):
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
            for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + body)


def change_tensors(folder, name, change):
    path = os.path.join(folder, name)
    tensors = read_safetensors(path)
    change(tensors)
    write_safetensors(path, tensors)


def change_config(folder, **values):
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.update(values)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


def scaled(tensors, name, factor):
    """The first element of an fp64 tensor times a factor."""
    dtype, shape, data = tensors[name]
    first = struct.unpack("<d", data[:8])[0]
    tensors[name] = (dtype, shape, struct.pack("<d", first * factor + (factor - 1)) + data[8:])


def renamed(tensors, old, new):
    tensors[new] = tensors.pop(old)


NORM = "model.norm.weight"
EXPECTED, MODEL = "expected.safetensors", "model.safetensors"
DAMAGE = {
    "parity_good": lambda d: None,
    "parity_eps": lambda d: change_config(d, rms_norm_eps=1.1e-6),
    "parity_gradient": lambda d: change_tensors(d, EXPECTED, lambda t: scaled(t, "grad." + NORM, 1.0001)),
    "parity_loss": lambda d: change_tensors(d, EXPECTED, lambda t: scaled(t, "loss", 1.0001)),
    "parity_logits": lambda d: change_tensors(d, EXPECTED, lambda t: scaled(t, "logits", 1.01)),
    "parity_trace": lambda d: change_tensors(d, EXPECTED, lambda t: scaled(t, "trace.grad_norm", 1.0001)),
    "parity_not_expected": lambda d: change_tensors(d, EXPECTED, lambda t: t.pop("grad." + NORM)),
    "parity_not_computed": lambda d: change_tensors(
        d, EXPECTED, lambda t: t.update({"grad.model.other.weight": t["grad." + NORM]})),
    "parity_weight_missing": lambda d: change_tensors(d, MODEL, lambda t: renamed(t, NORM, "model.nrom.weight")),
    "parity_other_size": lambda d: change_config(d, intermediate_size=40),
    "parity_no_batch": lambda d: change_tensors(d, EXPECTED, lambda t: t.pop("input_ids")),
    "parity_cut": lambda d: os.truncate(os.path.join(d, EXPECTED), 5000),
    "parity_no_weights": lambda d: os.remove(os.path.join(d, MODEL)),
    "parity_no_config": lambda d: os.remove(os.path.join(d, "config.json")),
    "parity_other_family": lambda d: change_config(d, model_type="lama"),
}


def write_broken_parity(source, folder):
    """Returns name -> folder."""
    out = {}
    for name, damage in DAMAGE.items():
        copy = os.path.join(folder, "parity", name)
        shutil.copytree(os.path.join(source, "tests", "golden", "llama-mha"), copy)
        damage(copy)
        out[name] = copy
    return out
