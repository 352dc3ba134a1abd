"""How fast limla attacks on the CPU against plain torchattacks, each side as its users run it.

Two processes take turns (A B A B …), so that a noisy machine disturbs both alike:

* `plain`: `torchattacks.PGD(model, …)(images, labels)` on the eager model in its default layout;
* `limla`: `keep_large_activations()`, `prepare_victim`, `Attack.run`.

Both attack the same images from the same seed; the adversarial images are compared.

    python benchmarks/attacks.py --rounds 5 --output benchmarks/results/attacks.json
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from machine import describe_machine

EPS, STEPS, ALPHA, SEED = 8 / 255, 10, 2 / 255, 0
SIDES = ("plain", "limla")


def _model_and_batch(name: str, batch_size: int, image_size: int):
    import torch
    import torchvision

    torch.manual_seed(SEED)
    backbone = torchvision.models.get_model(name, weights=None, num_classes=5)
    # batch norms of a trained model have seen data: untrained ones would be near-identities
    backbone.train()
    generator = torch.Generator().manual_seed(SEED)
    images = torch.rand(batch_size, 3, image_size, image_size, generator=generator)
    with torch.no_grad():
        for _ in range(3):
            backbone(images[:8])
    labels = torch.arange(batch_size) % 5
    return backbone.eval(), images, labels


def _serve(side: str, name: str, batch_size: int, image_size: int, folder: Path) -> None:
    """Attack once for every line on standard input, answer with the seconds it took."""
    import torch
    import torchattacks

    if side == "limla":
        from limla.models.memory import keep_large_activations

        keep_large_activations()
    model, images, labels = _model_and_batch(name, batch_size, image_size)
    if side == "limla":
        from limla.attacks.base import build_attack
        from limla.models.victim import prepare_victim

        victim = prepare_victim(model, "cpu", images[:2])
        attacks = {
            "fgsm": build_attack("fgsm", EPS),
            "pgd": build_attack("pgd", EPS, steps=STEPS, alpha=ALPHA),
        }

        def run(attack: str) -> torch.Tensor:
            return attacks[attack].run(victim, images, labels, seed=SEED)
    else:
        plain = {
            "fgsm": torchattacks.FGSM(model, eps=EPS),
            "pgd": torchattacks.PGD(model, eps=EPS, alpha=ALPHA, steps=STEPS),
        }

        def run(attack: str) -> torch.Tensor:
            torch.manual_seed(SEED)
            return plain[attack](images, labels)

    print("ready", flush=True)
    for line in sys.stdin:
        attack = line.strip()
        started = time.perf_counter()
        adversarial = run(attack)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            predictions = model(adversarial).argmax(1)
        torch.save({"images": adversarial, "predictions": predictions}, folder / f"{side}-{attack}.pt")
        print(seconds, flush=True)


class _Side:
    """One serving process."""

    def __init__(self, side: str, name: str, batch_size: int, image_size: int, folder: Path) -> None:
        command = [sys.executable, __file__, "--serve", side, "--model", name, "--folder", str(folder)]
        command += ["--batch-size", str(batch_size), "--image-size", str(image_size)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise SystemExit("a serving process ended early; its error stands above")
        return answer

    def seconds(self, attack: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{attack}\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def _agreement(folder: Path, attack: str) -> dict[str, float]:
    import torch

    plain, limla = (torch.load(folder / f"{side}-{attack}.pt") for side in SIDES)
    difference = (plain["images"] - limla["images"]).abs()
    return {
        "fraction_of_values_equal_within_1e-5": float((difference <= 1e-5).float().mean()),
        "fraction_of_predictions_equal": float((plain["predictions"] == limla["predictions"]).float().mean()),
    }


def _measure(name: str, batch_size: int, image_size: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sides = {side: _Side(side, name, batch_size, image_size, folder) for side in SIDES}
        found: dict = {"model": name, "batch_size": batch_size, "image_size": image_size}
        for attack in ("fgsm", "pgd"):
            for side in SIDES:
                sides[side].seconds(attack)  # warm-up
            taken = [{side: sides[side].seconds(attack) for side in SIDES} for _ in range(rounds)]
            medians = {side: statistics.median(row[side] for row in taken) for side in SIDES}
            found[attack] = {
                "images_per_s": {side: round(batch_size / medians[side], 2) for side in SIDES},
                "median_s": {side: round(medians[side], 3) for side in SIDES},
                "speed_ratio_median": round(statistics.median(row["plain"] / row["limla"] for row in taken), 2),
                "speed_ratios": [round(row["plain"] / row["limla"], 2) for row in taken],
                **_agreement(folder, attack),
            }
        for side in sides.values():
            side.close()
    return found


@click.command()
@click.option("--model", "models", multiple=True, default=("mobilenet_v2",), show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--image-size", default=224, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Interleaved measurements per attack.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the JSON here too.")
@click.option("--serve", type=click.Choice(SIDES), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(models, batch_size, image_size, rounds, output, serve, folder) -> None:
    """Measure FGSM and PGD-10 (eps 8/255, alpha 2/255) on the CPU, float32."""
    if serve:
        _serve(serve, models[0], batch_size, image_size, folder)
        return
    found = {
        "what": "FGSM and PGD-10 on the CPU: limla against plain torchattacks on the eager model",
        "command": "python benchmarks/attacks.py " + " ".join(sys.argv[1:]),
        "machine": describe_machine(),
        "results": [_measure(name, batch_size, image_size, rounds) for name in models],
    }
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)


if __name__ == "__main__":
    main()
