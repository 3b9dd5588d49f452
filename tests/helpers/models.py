"""Small models, one of each way to hold feature maps."""

from tests.helpers.artifacts import SMALL_VIT

# (timm name, arguments, number of blocks, layout): small, one of each way to hold feature maps.
MODELS = {
    "vit": ("vit_tiny_patch16_224", {**SMALL_VIT, "img_size": 64}, 2, "tokens"),
    "vit without bias": ("vit_tiny_patch16_224", {**SMALL_VIT, "img_size": 64, "qkv_bias": False}, 2, "tokens"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)},
        4,
        "NHWC",
    ),
    "resnet": ("resnet18", {}, 8, "NCHW"),
    "resnet bottleneck": ("resnet26", {}, 8, "NCHW"),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}, 5, "NCHW"),
    "mobilenetv2": ("mobilenetv2_035", {}, 17, "NCHW"),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 12, "NCHW"),
    "efficientnet": ("efficientnet_b0", {}, 16, "NCHW"),
}
