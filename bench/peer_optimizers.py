#!/usr/bin/env python3
"""Times the updates of bench/optimizers.cpp in other programs: same matrices, fp32, same cases, gradients drawn anew for
each update. One line of JSON.

    peer_optimizers.py --case=adamw|muon|muon-fp32|soap|soap-refresh|galore-refresh [--layers=12] [--steps=5] [--threads=2]

adamw: torch.optim.AdamW(fused=True). muon: torch.optim.Muon as it comes, orthogonalising in bfloat16; muon-fp32: the same
with its conversion to bfloat16 taken out. soap: SOAP of pytorch_optimizer. galore-refresh: the torch.linalg.svd that GaLore
calls at a refresh, alone. Needs torch and pytorch_optimizer.
"""

import argparse
import json
import statistics
import time

import torch

SHAPES = [(768, 768)] * 4 + [(2048, 768)] * 2 + [(768, 2048)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", required=True)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    weights = [torch.nn.Parameter(torch.zeros(s)) for _ in range(a.layers) for s in SHAPES]
    for w in weights:
        w.grad = torch.randn(w.shape)

    if a.case == "adamw":
        step = torch.optim.AdamW(weights, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True).step
    elif a.case in ("muon", "muon-fp32"):
        if a.case == "muon-fp32":
            torch.Tensor.bfloat16 = lambda x: x.clone()
        step = torch.optim.Muon(weights, lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step
    elif a.case in ("soap", "soap-refresh"):
        from pytorch_optimizer import SOAP

        step = SOAP(weights, lr=1e-3, precondition_frequency=1 if a.case == "soap-refresh" else 1 << 30).step
    elif a.case == "galore-refresh":
        step = lambda: [torch.linalg.svd(w.grad, full_matrices=False) for w in weights]
    else:
        parser.error("unknown case")

    times, cpu_times = [], []
    for i in range(2 + a.steps):  # the first updates make the state
        for w in weights:
            w.grad.normal_()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        step()
        if i >= 2:
            times.append(1e3 * (time.perf_counter() - begin))
            cpu_times.append(1e3 * (time.process_time() - cpu_begin))
    print(json.dumps({"name": "peer_optimizers", "case": a.case, "layers": a.layers, "threads": torch.get_num_threads(),
                      "ms": round(statistics.median(times), 1), "cpu_ms": round(statistics.median(cpu_times), 1)}))


if __name__ == "__main__":
    main()
