"""The command line of the zoo: python -m vae_keras COMMAND."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vae_keras import datasets
    from vae_keras.model import VAE


def main(argv: list[str] | None = None) -> int:
    """Parses and runs one command.

    Args:
        argv: the arguments. Default: the process'.

    Returns:
        The exit code, see `cli.run`.
    """
    arguments = _parser().parse_args(argv)
    from vae_keras import cli

    return cli.run(lambda: arguments.run(arguments), arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vae_keras", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, model: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if model:
            source = sub.add_mutually_exclusive_group(required=True)
            source.add_argument("--preset", metavar="NAME", help="a model of the zoo")
            source.add_argument("--model", metavar="PATH", help="a .keras file")
        return sub

    def add_data(sub: argparse.ArgumentParser) -> None:
        text = "mnist, fashion_mnist, an .npz or a folder of images; default: what it trained on"
        sub.add_argument("--data", metavar="DATA", help=text)

    def add_refined(sub: argparse.ArgumentParser) -> None:
        text = "only so many images take all draws, the others 100; for slow models"
        sub.add_argument("--refined", type=int, metavar="N", help=text)

    command("presets", _presets, "Lists the zoo as a table.", model=False)

    sub = command("evaluate", _evaluate, "Measures -log p(x), the ELBO and its terms.")
    add_data(sub)
    sub.add_argument("--samples", type=int, default=5000, metavar="K", help="a posterior's draws")
    sub.add_argument("--images", type=int, metavar="N", help="first test images, default: all")
    add_refined(sub)
    sub.add_argument("--seed", type=int, default=0, metavar="S")
    sub.add_argument("--json", metavar="FILE", help="writes the numbers there, too")

    sub = command("sample", _sample, "Draws images from the prior into one PNG.")
    sub.add_argument("--count", type=int, default=25, metavar="N", help="a multiple of 5")
    sub.add_argument("--seed", type=int, default=0, metavar="S")
    sub.add_argument("--to", default="samples.png", metavar="FILE")

    sub = command("figures", _figures, "Draws the figures of the test set.")
    add_data(sub)
    sub.add_argument("--to", default="figures", metavar="DIR")

    sub = command("export", _export, "Writes a version under a TF Serving base path.")
    sub.add_argument("--to", required=True, metavar="DIR")
    sub.add_argument("--version", type=int, metavar="V", help="default: the next one")
    formats = ("saved_model", "onnx", "litert")
    sub.add_argument("--format", default=formats[0], choices=formats)

    sub = command("publish", _publish, "Puts a finished run of a preset into the zoo.", model=False)
    sub.add_argument("run_folder", metavar="RUN", help="such as runs/mlp_mnist")
    add_refined(sub)

    command("render", _render, "Writes the cards and tables anew from their JSON.", model=False)
    return parser


def _load(arguments: argparse.Namespace) -> VAE:
    from vae_keras import checks, keras_file
    from vae_keras.model import VAE

    if arguments.preset is not None:
        return VAE.from_preset(arguments.preset)
    model = keras_file.load(arguments.model)
    if not isinstance(model, VAE):
        raise checks.InputError(
            f"--model takes a VAE. Received: a {type(model).__name__} in {arguments.model}. "
            "Train one: python train.py"
        )
    return model


def _trained_on(arguments: argparse.Namespace) -> str:
    """The name of the data that a model was trained on: its recipe's, or its run folder's."""
    from vae_keras import checks, presets

    if arguments.preset is not None:
        return presets.load_recipe(arguments.preset).data
    path = Path(arguments.model).parent / "config.json"
    try:
        return str(json.loads(path.read_text("utf-8"))["data"])
    except (FileNotFoundError, KeyError, TypeError):
        return "mnist"  # a file on its own
    except (ValueError, RecursionError) as error:
        raise checks.InputError(
            f"the config.json beside a model must be sound JSON. Received: {path} ({error}). "
            "Restore it, or move the model away from it."
        ) from error


def _load_data(arguments: argparse.Namespace, model: VAE) -> datasets.DataSet:
    from vae_keras import checks, datasets, training

    name = arguments.data
    if name is None:
        name = _trained_on(arguments)
        if name not in datasets.KNOWN:
            raise checks.InputError(
                "a model of your own data needs --data, its file or folder. "
                f"Received: {arguments.model}, trained on {name!r}. Name it."
            )
    height, width, _ = model.image_shape
    own = name not in datasets.KNOWN
    dataset = training.load_data(name, f"{height}x{width}" if own else None)
    if own:
        print("\n".join(datasets.describe(dataset)))
    return dataset


def _presets(_: argparse.Namespace) -> None:
    from vae_keras import presets

    rows = [("preset", "-log p(x)", "epochs", "what it is")]
    for name in presets.names():
        recipe = presets.load_recipe(name)
        measured = presets.load_metrics(name)["metrics"] if name in presets.trained() else []
        value = next((e["value"] for e in measured if e["name"] == "negative_log_likelihood"), None)
        shown = "no weights" if value is None else f"{value:.2f}"
        rows.append((name, shown, str(recipe.epochs), recipe.description))
    _print_table(rows)


def _evaluate(arguments: argparse.Namespace) -> None:
    from vae_keras import (
        checks,
        data,
        datasets,
        evaluation,
        files,
        presets,
        report,
        training,
        zoo,
    )

    checks.whole_number("--samples", arguments.samples, 1, 2**31 - 1)
    if arguments.images is not None:
        checks.whole_number("--images", arguments.images, 1)
    checks.whole_number("--seed", arguments.seed, 0, checks.MAX_SEED)
    if arguments.json is not None:
        checks.writable("--json", arguments.json)
    model = _load(arguments)
    images = _load_data(arguments, model).images.x_test
    count = checks.whole_number("--images", arguments.images or len(images), 1, len(images))
    mode = model.binarization
    if mode == "none" and not model.likelihood_part.takes_grey:
        mode = "dynamic"  # a Bernoulli that saw grey pixels is still measured on binary ones
    x = data.binarize(images[:count], arguments.seed, mode)
    if arguments.refined is not None:
        checks.whole_number("--refined", arguments.refined, 2, count)
        checks.whole_number("--samples", arguments.samples, evaluation.FEW + 1)
    likelihood = zoo.estimate_likelihood(
        model, x, arguments.samples, arguments.seed, arguments.refined
    )
    entries = [
        zoo.likelihood_metric(likelihood, mode),
        *training.measure(model, x, mode, arguments.seed),
    ]
    numbers = "value", "standard_error"  # one image has no standard error
    _print_table(
        [("nats per image", "mean", "standard error", "samples")]
        + [
            (e["name"], *(_digits(e.get(key)) for key in numbers), str(e["num_samples"]))
            for e in entries
            if e["unit"] == "nats per image"
        ]
    )
    for k, bound in likelihood.curve.items():
        print(f"bound at k = {k}: {bound.mean:.3f}")
    some = "" if arguments.refined is None else f" ({arguments.refined} with all samples)"
    print(f"{len(x)} images{some}, {mode} binarization, seed {arguments.seed}")
    if arguments.json:
        weights = presets.weights(arguments.preset) if arguments.preset else arguments.model
        made = {"weights_sha256": files.sha256(Path(weights))}
        result = {
            "model": arguments.preset or arguments.model,
            "provenance": report.provenance(datasets.fingerprint(images)) | made,
            "metrics": entries,
            "importance_weighted_bounds": zoo.bounds(likelihood),
        }
        files.write_json(arguments.json, result)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sample(arguments: argparse.Namespace) -> None:
    from vae_keras import checks, datasets, figures, gallery

    count = checks.whole_number("--count", arguments.count, 5, 10000)
    if count % 5:
        raise checks.InputError(f"--count must be a multiple of 5. Received: {count}.")
    checks.whole_number("--seed", arguments.seed, 0, checks.MAX_SEED)
    checks.writable("--to", arguments.to)
    model = _load(arguments)
    images = model.sample(count, arguments.seed)
    title = gallery.prior_titles(model, count)["prior"]
    ink = _trained_on(arguments) in datasets.KNOWN
    figures.save(figures.grid(images, count // 5, 5, title, ink=ink), arguments.to)
    print(arguments.to)


def _figures(arguments: argparse.Namespace) -> None:
    from vae_keras import checks, data, figures, gallery

    checks.writable("--to", arguments.to, folder=True)
    model = _load(arguments)
    dataset = _load_data(arguments, model)
    x, labels = dataset.images.x_test, dataset.images.y_test
    test = data.binarize(x, model.seed, model.binarization)
    for name, figure in gallery.test_figures(model, x, test, labels, dataset.ink):
        path = Path(arguments.to) / f"{name}.png"
        figures.save(figure, path)
        print(path)


def _export(arguments: argparse.Namespace) -> None:
    from vae_keras import checks, export

    checks.writable("--to", arguments.to, folder=True)
    if arguments.format != "saved_model":
        for path in export.export_parts(_load(arguments), arguments.to, arguments.format):
            print(path)
        return
    print(export.export_saved_model(_load(arguments), arguments.to, arguments.version))


def _publish(arguments: argparse.Namespace) -> None:
    from vae_keras import checks, zoo

    if arguments.refined is not None:
        checks.whole_number("--refined", arguments.refined, 2)
    print(zoo.publish(Path(arguments.run_folder), num_refined=arguments.refined))


def _render(_: argparse.Namespace) -> None:
    from vae_keras import cards, files

    for path, text in cards.render().items():
        files.write_text(path, text)
        print(path)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
