"""Good small files for the cases, and data files that are wrong in one way each."""
import os
import struct

TEXT = "".join(f"the quick brown fox {n % 10} jumps over the lazy dog\n" for n in range(400))

RUN = """[data]
path = text.txt
sequence_length = 16
[train]
steps = 2
batch = 4
[model]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
[runtime]
device = cpu
[log]
level = warn
"""

TOKENS = """[data]
source = tokens
sequence_length = 16
valid_fraction = 0
[model]
vocab_size = 256
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
"""

SMALL_MODEL = """{"model_type": "llama", "vocab_size": 256, "hidden_size": 16, "intermediate_size": 32,
 "num_hidden_layers": 1, "num_attention_heads": 2}
"""

# Two stages of one rank each, for RUN.
PLAN = """{"schema": "plan/1", "hardware": {"devices": 2}, "global": {"p": 2, "m": 2, "gbs": 4},
 "layers": [{"from": 0, "to": 0, "t": 1, "d": 1}]}
"""


def write(folder, name, data):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())
    return path


def write_good_files(folder):
    write(folder, "text.txt", TEXT)
    write(folder, "run.ini", RUN)
    write(folder, "tokens.ini", TOKENS)
    write(folder, "small.json", SMALL_MODEL)
    write(folder, "good-plan.json", PLAN)
    write(folder, "bad-plan.json", PLAN.replace('"t": 1', '"t": "two", "recomput": "full"'))
    write(folder, "empty.txt", "")
    write(folder, "short.txt", "abc")
    write(folder, "latin1.txt", TEXT.encode() + b"caf\xe9 " + TEXT.encode())


def llmc(count, ids, magic=20240520, version=1, width="H"):
    header = [magic, version, count] + [0] * 253
    return struct.pack("<256i", *header) + struct.pack(f"<{len(ids)}{width}", *ids)


def megatron_index(lengths, magic=b"MMIDIDX\x00\x00", version=1, dtype=8, count=None):
    sequences = len(lengths) if count is None else count
    out = magic + struct.pack("<QBQQ", version, dtype, sequences, len(lengths) + 1)
    out += struct.pack(f"<{len(lengths)}i", *lengths)
    pointers, at = [], 0
    for length in lengths:
        pointers.append(at)
        at += 2 * length
    out += struct.pack(f"<{len(lengths)}q", *pointers)
    return out + struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))


def write_broken_files(folder):
    """Returns name -> path."""
    ids = [n % 200 for n in range(200)]
    made = {
        "odd_nanogpt": ("odd.bin", struct.pack("<99H", *ids[:99]) + b"\x01"),
        "large_id": ("large.bin", struct.pack("<200H", *ids[:150], 700, *ids[151:])),
        "llmc_short": ("llmc_short.bin", llmc(500, ids)),
        "llmc_long": ("llmc_long.bin", llmc(100, ids)),
        "llmc_version": ("llmc_version.bin", llmc(200, ids, version=3)),
        "llmc_header": ("llmc_header.bin", llmc(200, ids)[:100]),
        "llmc_negative": ("llmc_negative.bin", llmc(-5, ids)),
        "llmc_good": ("llmc_good.bin", llmc(200, ids)),
        "strata_magic": ("magic.tokens", b"STRATATX" + bytes(200)),
        "strata_header": ("header.tokens", b"STRATATK" + bytes(3)),
        "strata_zero": ("zero.tokens", b"STRATATK" + bytes(400)),
        "no_tokens": ("none.bin", b""),
        "few_tokens": ("few.bin", struct.pack("<5H", *ids[:5])),
        "not_hdf5": ("data.h5", b"this is no HDF5 file, whatever it says" * 20),
        "not_sentencepiece": ("words.model", b"\x00\x01\x02 not a model"),
    }
    out = {name: write(folder, "broken/" + file, data) for name, (file, data) in made.items()}
    body = struct.pack("<200H", *ids)
    for name, index in {"megatron_magic": megatron_index([100, 100], magic=b"MMIDIDY\x00\x00"),
                        "megatron_version": megatron_index([100, 100], version=9),
                        "megatron_cut": megatron_index([100, 100])[:40],
                        "megatron_count": megatron_index([100, 100], count=1 << 40),
                        "megatron_long": megatron_index([100, 400])}.items():
        write(folder, f"broken/{name}.bin", body)
        out[name] = write(folder, f"broken/{name}.idx", index)
    os.makedirs(os.path.join(folder, "broken", "folder"), exist_ok=True)
    out["empty_folder"] = os.path.join(folder, "broken", "folder")
    return out
