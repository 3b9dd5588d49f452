"""The work that tools/benchmarks/bench_memory.py and tools/benchmarks/bench_step.py measure, alike for all."""

BATCH = 8
STEPS = 3
IMAGE_SIZE = 224
CLASSES = 5
THREADS = 2
LEARNING_RATE = 1e-4
MODELS = {
    "vit_base_patch16_224": "ViT-B/16",
    "deit_tiny_patch16_224": "DeiT-Tiny",
    "swin_tiny_patch4_window7_224": "Swin-T",
    "resnet50": "ResNet-50",
    "mobilenetv2_100": "MobileNetV2",
}
