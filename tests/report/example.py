"""A realistic record: the network 784-256-128-64-10 on Fashion-MNIST."""

from __future__ import annotations

from typing import Any

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def candidate(name: str, metric: float | None, size: int | None, latency: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "format": name.split("+")[-1],
        "metric": metric,
        "metric_drop": None if metric is None else round(0.8612 - metric, 6),
        "drop_interval": None if metric is None else [0.8612 - metric - 0.0021, 0.8612 - metric + 0.0023],
        "agreement": None if metric is None else 0.9996,
        "size_bytes": size,
        "gzip_bytes": None if size is None else int(size * 0.62),
        "latency_ms": latency,
        "latency_p95_ms": None if latency is None else latency * 1.07,
        "parameters": 242_762,
        "macs": 242_304,
        "sparsity": 0.8 if name.startswith("prune") else 0.004,
        "arena_bytes": 4608,
        "samples": 6000,
        "status": "lost",
        "reason": "",
        "steps": name.split("+")[:-1],
        "path": f"candidates/{name}.tflite",
        **more,
    }


def example() -> dict[str, Any]:
    """Returns the record's dict, new at every call."""
    before = (0.83, 0.967, 0.772, 0.874, 0.789, 0.951, 0.618, 0.93, 0.963, 0.941)
    after = (0.838, 0.968, 0.781, 0.862, 0.807, 0.949, 0.597, 0.936, 0.964, 0.948)
    return {
        "version": 1,
        "bigmodel": "0.1.0",
        "target_met": True,
        "metric": "accuracy",
        "max_drop": 0.005,
        "seed": 0,
        "seconds": 142.6,
        "higher_is_better": True,
        "target": {"size": 200_000, "latency_ms": None, "optimize": "balanced"},
        "split": "test",
        "baseline": {
            "metric": 0.8595,
            "size_bytes": 973_864,
            "gzip_bytes": 900_121,
            "latency_ms": 0.0230,
            "latency_p95_ms": 0.0241,
            "format": "float32",
            "parameters": 242_762,
            "macs": 242_304,
            "sparsity": 0.0,
            "arena_bytes": 4672,
            "samples": 10_000,
            "per_class": dict(zip(CLASSES, before, strict=True)),
        },
        "final": {
            "metric": 0.8650,
            "drop_interval": [-0.0082, -0.0028],
            "size_bytes": 127_664,
            "gzip_bytes": 47_310,
            "latency_ms": 0.0071,
            "latency_p95_ms": 0.0074,
            "format": "dynamic_int4",
            "name": "prune+aware+dynamic_int4",
            "sparsity": 0.8,
            "agreement": 0.9998,
            "parameters": 242_762,
            "macs": 242_304,
            "arena_bytes": 4672,
            "samples": 10_000,
            "per_class": dict(zip(CLASSES, after, strict=True)),
        },
        "candidates": [
            candidate("float32", 0.8612, 973_864, 0.0230, reason="7.63x larger than the chosen file"),
            candidate("float16", 0.8612, 490_112, 0.0231, reason="3.84x larger than the chosen file"),
            candidate("weight_int8", 0.8613, 252_808, 0.0229, reason="3.23x slower and 1.98x larger"),
            candidate("dynamic_int8", 0.8611, 254_344, 0.0097, reason="1.99x larger than the chosen file"),
            candidate("static_int8", 0.8603, 258_376, 0.0088, reason="2.02x larger than the chosen file"),
            candidate("dynamic_int4", 0.8394, 127_664, 0.0071, reason="accuracy is 0.0218 worse, 0.0050 is allowed"),
            candidate("prune+aware+dynamic_int8", 0.8668, 254_344, 0.0098, reason="1.99x larger than the chosen file"),
            candidate("prune+aware+dynamic_int4", 0.8657, 127_664, 0.0071, status="chosen", reason="smallest in the bound"),
            candidate(
                "prune+aware+static_int8",
                None,
                None,
                None,
                status="failed",
                reason="the converter ended with SIGSEGV: <unknown op 'Foo&Bar'>",
            ),
        ],
        "steps": [
            {"name": "pretrain", "seconds": 38.1, "metric_before": 0.1021, "metric_after": 0.8612, "epochs": 8},
            {"name": "prune", "seconds": 31.7, "metric_before": 0.8612, "metric_after": 0.8681, "sparsity": 0.8},
            {"name": "aware", "seconds": 44.0, "metric_before": 0.8412, "metric_after": 0.8657, "bits": 4},
            {"name": "convert", "seconds": 12.9, "metric_before": None, "metric_after": None},
        ],
        "skipped": [
            {"layer": "lstm", "step": "quantize", "reason": "the runtime has no 4-bit kernel for it; it stays float"},
            {"layer": "softmax", "step": "prune", "reason": "it has no weights"},
        ],
        "ops": [
            {
                "index": index,
                "name": "FULLY_CONNECTED",
                "weight_bits": 4,
                "activation": "float",
                "weight_tensor": f"sequential/dense_{index}/MatMul",
                "sparsity": 0.8,
                "distinct": 15,
                "parameters": inputs * units + units,
                "macs": inputs * units,
                "graph": 0,
                "output": f"sequential/dense_{index}/Relu",
            }
            for index, (inputs, units) in enumerate([(784, 256), (256, 128), (128, 64), (64, 10)])
        ]
        + [
            {
                "index": 4,
                "name": "SOFTMAX",
                "weight_bits": None,
                "activation": "float",
                "weight_tensor": None,
                "sparsity": None,
                "distinct": None,
                "parameters": 0,
                "macs": 0,
                "graph": 0,
                "output": "probabilities",
            }
        ],
        "notes": ["validation was cut from train: 10 %, stratified", "Dropout 0.5 was kept"],
        "environment": {
            "tensorflow": "2.21.0",
            "keras": "3.15.1",
            "ai-edge-litert": "2.3.0",
            "python": "3.11.9",
            "devices": ["CPU"],
            "delegate": "xnnpack",
            "threads": 1,
        },
    }
