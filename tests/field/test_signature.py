"""Ed25519 signatures: who can write an artifact can write its digests; only the owner of the key can sign them."""

import dataclasses
import shutil
import subprocess

import pytest

from edge_s2a.artifact.archive import MANIFEST, SIGNATURE, Artifact, digests, write_archive
from tests.helpers.artifacts import CLASSES, SMALL_VIT
from tests.helpers.commands import assert_refused, run_command, run_here, run_host_here
from tests.helpers.images import write_images

KWARGS = [f"{key}={value}" for key, value in SMALL_VIT.items()]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs of PEM files as openssl makes them, <name>.pem and <name>.pub, and an RSA key."""
    folder = tmp_path_factory.mktemp("keys")
    for name, algorithm in (("owner", "ed25519"), ("other", "ed25519"), ("rsa", "rsa")):
        openssl("genpkey", "-algorithm", algorithm, "-out", folder / f"{name}.pem")
        openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    return folder


def openssl(*arguments) -> str:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def signed(keys, tmp_path_factory):
    """Packed as a user does."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    packed = run_command(
        "pack", "vit_tiny_patch16_224", "--model-kwargs", *KWARGS, "--labels", folder / "labels.txt",
        "--sign", keys / "owner.pem", "--output", folder / "signed.s2a", "--json",
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    assert packed.json["signed"] is True
    return folder / "signed.s2a"


def test_every_verb_takes_what_its_owner_signed(signed, keys, tmp_path):
    data = write_images(tmp_path / "data", 3, seed=0)
    limits = ["--require-signature", keys / "owner.pub"]
    budget = ["--memory-budget", "300MiB"]
    adapter = ["--adapter", tmp_path / "run" / "adapter.safetensors"]
    for command in (
        ["inspect", signed], ["check", signed], ["plan", signed, *budget],
        ["learn", signed, "--data", data, "--output", tmp_path / "K", *budget],
        ["learn", tmp_path / "K", "--forget", "red", *budget],
        ["train", signed, "--data", data, "--output", tmp_path / "run", "--epochs", 1, *budget],
        ["eval", signed, *adapter, "--data", data], ["predict", signed, data / "red" / "000.png", *adapter],
    ):  # fmt: skip
        done = run_command(*command, *limits)
        assert done.returncode == 0, (command, done.stderr)


def test_openssl_agrees(signed, keys, tmp_path):
    subprocess.run(["python3", "-m", "zipfile", "-e", str(signed), str(tmp_path)], check=True)
    printed = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", keys / "owner.pub", "-rawin",
        "-in", tmp_path / MANIFEST, "-sigfile", tmp_path / SIGNATURE,
    )  # fmt: skip
    assert "Verified Successfully" in printed


@pytest.mark.parametrize("name", ["check", "train"])
def test_another_key_and_no_signature_are_refused(name, signed, small_artifact, keys, tmp_path):
    options = ["--require-signature", keys / "other.pub"]
    if name == "train":
        options += ["--data", tmp_path, "--output", tmp_path / "run", "--memory-budget", "300MiB"]
    assert_refused(run_here(name, signed, *options), 4, "not signed by the owner of", "other.pub", "do not use it")
    assert_refused(run_here(name, small_artifact, *options), 4, "is not signed", "repack the model with --sign")
    assert not (tmp_path / "run").exists()


def rewritten(signed, output, **manifest):
    """What who lacks the key can do: change a weight or the manifest, write right digests, keep the signature."""
    artifact = Artifact(signed)
    members = {name: artifact.read(name) for name in artifact.manifest.members}
    if not manifest:
        weights = bytearray(members["weights.safetensors"])
        weights[-1] ^= 1
        members["weights.safetensors"] = bytes(weights)
    changed = dataclasses.replace(artifact.manifest, members=digests(members), **manifest)

    class Replay:
        def sign(self, _):
            return artifact.signature

    write_archive(output, changed, members, Replay())
    return output


@pytest.mark.parametrize("change", [{}, {"labels": ["blue", "red", "green"]}])
def test_whoever_changes_the_file_is_noticed(change, signed, keys, tmp_path):
    path = rewritten(signed, tmp_path / "changed.s2a", **change)
    assert run_here("inspect", path).returncode == 0
    refused = run_here("check", path, "--require-signature", keys / "owner.pub")
    assert_refused(refused, 4, "or was changed afterwards")


def test_a_weight_changed_in_place_is_noticed_by_its_signed_digest(signed, keys, tmp_path):
    path = shutil.copy(signed, tmp_path / "changed.s2a")
    offset, size = Artifact(path)._extents["weights.safetensors"]
    with open(path, "r+b") as file:
        file.seek(offset + size - 1)
        value = file.read(1)[0]
        file.seek(offset + size - 1)
        file.write(bytes([value ^ 1]))
    refused = run_here("check", path, "--require-signature", keys / "owner.pub")
    assert_refused(refused, 4, "checksum of weights.safetensors is wrong")


@pytest.mark.parametrize("name", ["rsa.pem", "owner.pub", "missing.pem"])
def test_pack_refuses_a_wrong_key_before_it_starts(name, keys, tmp_path):
    output = tmp_path / "x.s2a"
    refused = run_host_here(
        "pack", "vit_tiny_patch16_224", "--num-classes", 3, "--sign", keys / name, "--output", output
    )  # fmt: skip
    assert_refused(refused, 2, name, "check the path" if name == "missing.pem" else "openssl genpkey")
    assert not output.exists()


@pytest.mark.parametrize("name", ["rsa.pub", "owner.pem"])
def test_a_wrong_public_key_is_refused(name, signed, keys):
    refused = run_here("check", signed, "--require-signature", keys / name)
    assert_refused(refused, 2, name, "is not a PEM file of an Ed25519 public key", "openssl")


def test_without_the_package_the_error_names_it(signed, keys, tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('not installed')")
    refused = run_command(
        "check", signed, "--require-signature", keys / "owner.pub", cwd=tmp_path,
    )  # fmt: skip
    assert_refused(refused, 2, "edge-s2a[signing]")
