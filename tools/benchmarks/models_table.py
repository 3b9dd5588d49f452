"""Which timm models work: packs each, replays its golden step, and compares its gradients with torch's.

    python -m tools.benchmarks.models_table run [MODEL ...] [--adapter bias]    # default: a choice over many families
    python -m tools.benchmarks.models_table table

Random weights, 10 classes, each model's own input size, 4 bits, int8 frozen weights, one process each. Columns:

- *torch*: relative distance of the whole gradient, float weights, exact saved tensors, device graph against torch's
  own operators. A ReLU whose input rounding moves over zero shows in it, as between any two float implementations.
- *4 bits*: the same of the 4-bit graph against the same scheme run eagerly (the artifact's golden step, two images).
- *cosine*: of the 4-bit gradient to torch's exact one, two images.
- *saved*: bytes that the backward pass keeps for each image. *peak*: planned arena for one image.

Results are JSON lines in --results; models that are there are not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tools.records import PROJECT, append_record, read_records, run_command

CLASSES = 10
MODELS = """
vit_tiny_patch16_224 vit_base_patch32_224 deit_tiny_patch16_224 deit3_small_patch16_224 vit_wee_patch16_reg1_gap_256
vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_224 vit_small_r26_s32_224 beit_base_patch16_224
eva02_tiny_patch14_224 cait_xxs24_224 xcit_nano_12_p16_224 swin_tiny_patch4_window7_224 swin_s3_tiny_224
swinv2_tiny_window8_256 resnet18 resnet50 wide_resnet50_2 resnext50_32x4d resnet50d seresnet50 res2net50_26w_4s
convnext_atto convnext_tiny convnextv2_atto mobilenetv2_100 mobilenetv2_050 mobilenetv3_small_100
mobilenetv3_large_100 mobilenetv4_conv_small efficientnet_b0 efficientnet_lite0 tf_efficientnet_b0
tf_efficientnetv2_b0 mnasnet_100 fbnetc_100 lcnet_050 hardcorenas_a rexnet_100 ghostnet_100 regnetx_002 regnety_002
densenet121 vgg11_bn dla34 hrnet_w18_small darknet53 cspresnet50 selecsls42b repvgg_a0 mobileone_s0 repvit_m0_9
fastvit_t8 mobilevit_xxs mobilevitv2_050 edgenext_xx_small efficientformer_l1 efficientvit_b0 levit_128s
tiny_vit_5m_224 pvt_v2_b0 poolformer_s12 caformer_s18 mixer_s16_224 resmlp_12_224 convmixer_768_32 inception_next_atto
starnet_s1 coatnet_0_rw_224 maxvit_tiny_rw_224 nfnet_l0 davit_tiny gcvit_xxtiny nest_tiny twins_svt_small
crossvit_9_240 volo_d1_224 focalnet_tiny_srf hgnetv2_b0 inception_v3 xception41
""".split()  # noqa: SIM905
# A model without blocks takes the modules that need none.
FALLBACK = "bias"


def measure(model: str, adapter: str) -> dict:
    """In this process; raises what packing raises."""
    import numpy as np
    import torch
    from torch.func import functional_call

    from edge_s2a.artifact.archive import PLAN, Artifact
    from edge_s2a.device.engine.base import EngineSettings
    from edge_s2a.device.engine.onnxruntime import OnnxRuntimeEngine
    from edge_s2a.device.load import load_for_check
    from edge_s2a.device.selfcheck import check
    from edge_s2a.host.golden import random_target
    from edge_s2a.host.pack import Adapted, adapt, build_graphs, write_artifact
    from edge_s2a.host.trace.capture import loss_and_gradients, soft_cross_entropy
    from edge_s2a.options import PackOptions
    from edge_s2a.plan.arena import arena_peak
    from edge_s2a.plan.lifetimes import from_json

    torch.set_num_threads(1)

    def flat(gradients: Sequence) -> np.ndarray:
        return torch.cat([gradient.flatten() for gradient in gradients]).numpy()

    def perturb(adapter: dict) -> None:
        """From initial zeros, so that every module has a gradient."""
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in adapter.values():
                value.add_(torch.randn(value.shape, generator=generator) * 0.02)

    def exact_gradient(adapted: Adapted) -> np.ndarray:
        """By torch's own operators."""
        logits = functional_call(adapted.model, adapted.adapter, (image,))
        return flat(torch.autograd.grad(soft_cross_entropy(logits, target), list(adapted.adapter.values())))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exact.s2a"
        options = PackOptions(model, path, num_classes=CLASSES, adapter=adapter, saved_bits="32", weight_format="fp32")
        adapted = adapt(options)
        write_artifact(options, adapted, build_graphs(options, adapted), path)
        perturb(adapted.adapter)
        engine = OnnxRuntimeEngine(Artifact(path), EngineSettings(threads=1))
        for name, array in engine.adapter.items():
            array[...] = adapted.adapter[name].detach().numpy()
        image_size = adapted.preprocessing.image_size
        image = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
        target = random_target(2, CLASSES, 0)
        _, _, gradients = engine.training_step(image.numpy(), target.numpy())
        measured = np.concatenate([gradients[name].ravel() for name in adapted.adapter])
        exact = exact_gradient(adapted)
        torch_error = float(np.linalg.norm(measured - exact) / np.linalg.norm(exact))
        del engine, adapted

        started = time.monotonic()
        path = Path(folder) / "model.s2a"
        options = PackOptions(model, path, num_classes=CLASSES, adapter=adapter)
        adapted = adapt(options)
        manifest = write_artifact(options, adapted, build_graphs(options, adapted), path)
        seconds = time.monotonic() - started
        perturb(adapted.adapter)
        exact = exact_gradient(adapted)
        coded = flat(loss_and_gradients(adapted.model, adapted.adapter, image, target, adapted.scheme)[2:])
        plans = from_json(Artifact(path).read(PLAN), str(path))
        golden = check(*load_for_check(path, EngineSettings(threads=1)))
    return {
        "torch_error": torch_error,
        "coded_error": golden["errors"]["gradients"],
        "ok": golden["ok"],
        "cosine": float(coded @ exact / np.linalg.norm(coded) / np.linalg.norm(exact)),
        "image_size": list(manifest.preprocessing.image_size),
        "trainable_parameters": manifest.trainable_parameters,
        "total_parameters": manifest.total_parameters,
        "saved_bytes_per_image": manifest.saved_bytes_per_image,
        "peak_bytes": arena_peak(plans, 1).arena_bytes,
        "pack_seconds": seconds,
    }


def measure_apart(model: str, adapter: str) -> dict:
    """In a process of its own, for the engine's arena is limited once a process."""
    call = f"m.measure({model!r}, {adapter!r})"
    code = f"import json; from tools.benchmarks import models_table as m; print(json.dumps({call}))"
    environment = dict(os.environ, PYTHONPATH=str(PROJECT))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment, check=False
    )
    if done.returncode:
        return {"failure": last_exception(done.stderr)[:300] or f"ended with code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def last_exception(stderr: str) -> str:
    """In one line: what follows the last line of code of a traceback."""
    lines = stderr.splitlines()
    code = [number for number, line in enumerate(lines) if line.startswith("    ")]
    return " ".join(" ".join(lines[code[-1] + 1 :] if code else lines).split())


def run(options: argparse.Namespace) -> None:
    done = {record["model"] for record in read_records(options.results)}
    for model in options.models or MODELS:
        if model in done:
            continue
        record = {"model": model, "adapter": options.adapter} | measure_apart(model, options.adapter)
        if "no sequence of blocks" in record.get("failure", "") or "grid" in record.get("failure", ""):
            record = {"model": model, "adapter": FALLBACK} | measure_apart(model, FALLBACK)
        append_record(options.results, record)
        print(json.dumps(record), flush=True)


def table(options: argparse.Namespace) -> None:
    records = read_records(options.results)
    working = [record for record in records if record.get("ok")]
    print("| model | input | adapter | trained | torch | 4 bits | cosine | saved | peak | pack |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for record in working:
        share = 100 * record["trainable_parameters"] / record["total_parameters"]
        print(
            f"| {record['model']} | {record['image_size'][0]} | {record['adapter']} | {share:.2f} % "
            f"| {record['torch_error']:.0e} | {record['coded_error']:.0e} | {record['cosine']:.4f} "
            f"| {record['saved_bytes_per_image'] / 1e6:.2f} MB | {record['peak_bytes'] / 2**20:.0f} MiB "
            f"| {record['pack_seconds']:.0f} s |"
        )
    print(f"\n{len(working)} of {len(records)} models work. The others:\n")
    for record in records:
        if not record.get("ok"):
            print(f"- {record['model']}: {record.get('failure') or 'the golden step deviates'}")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="*")
    parser.add_argument("--adapter", default="bias+prompt+side+lowrank")


if __name__ == "__main__":
    run_command(__doc__, "models.jsonl", run, table, add_run_options)
