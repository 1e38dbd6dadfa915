"""`ssd-worker train`: labelled images in, a weights file for own classes out.

Checks everything that can be checked before the first step, since a run takes minutes to days. It
can be stopped or killed at any moment: with --resume the same command goes on. Started by torchrun,
it is one of several processes that train together.
"""

import json
import logging
import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.commands.console import told
from worker.commands.requirements import INSTALL, check_libraries, check_place
from worker.commands.training_console import TrainingConsole
from worker.commands.wiring import on_stop_signals, prepare_device
from worker.errors import UsageError, WorkerError
from worker.settings.learning import TrainSettings
from worker.sources.limits import Limits

if TYPE_CHECKING:
    from ssd_core import Detector
    from ssd_core.training.augment import Augmentation
    from ssd_core.training.data import DataSet
    from ssd_core.training.loop import Epoch, Progress, Training, Validate
    from ssd_core.training.processes import Processes
    from ssd_core.training.recipe import Recipe
    from ssd_core.training.run_folder import RunFolder
    from ssd_core.training.tensorboard import TensorBoard

log = logging.getLogger(__name__)


def run_train(settings: TrainSettings) -> int:
    """Train; returns the exit code: 130 if it was stopped."""
    for path in (settings.output, settings.preview):
        if path is not None:
            check_place(path, may_exist=settings.overwrite or settings.resume)
    check_libraries(
        ({"--val": "faster_coco_eval"} if settings.val else {})
        | ({"--tensorboard": "tensorboard"} if settings.tensorboard else {})
    )
    # torch takes seconds to import: only once the settings are known to be good.
    import torch

    from ssd_core.errors import SsdError
    from ssd_core.training.processes import Processes
    from ssd_core.training.run_folder import RunFolder

    folder = None if settings.output is None else RunFolder(settings.output)
    try:
        # A step of MobileNet takes 150 ms of a core per image, 87 where freed memory is kept.
        prepare_device(settings.device)
        with Processes.join(settings.device) as processes:
            if not processes.is_first:
                for name in ("worker", "ssd_core"):
                    logging.getLogger(name).setLevel(logging.ERROR)
            if folder is not None:
                _check_unfinished(folder, settings)
                if processes.is_first:
                    folder.claim()
            return _train(settings, folder, processes)
    except SsdError as error:
        raise told(error) from error
    except torch.OutOfMemoryError as error:
        raise WorkerError(
            f"--device {settings.device}: no memory left: free memory on it, or use another device"
        ) from error
    finally:
        if folder is not None:
            folder.release()


def _check_unfinished(folder: "RunFolder", settings: TrainSettings) -> None:
    if folder.state.exists() and not settings.resume and not settings.overwrite:
        raise UsageError(
            f"{folder.path} holds a run that is not finished: give --resume to go on, or "
            "--overwrite to start again"
        )


def _train(settings: TrainSettings, folder: "RunFolder | None", processes: "Processes") -> int:
    """The run, from reading the data to writing the weights."""
    from ssd_core.training.initialisation import starting_model
    from ssd_core.training.loop import Training, training_precision
    from ssd_core.training.preview import write_preview

    device = processes.device
    precision = training_precision(settings.precision, device)
    data, validation = _read_data(settings)
    network, spec, digest = starting_model(
        data.labels, settings.model, settings.weights, settings.seed
    )
    if settings.preview is not None and processes.is_first:
        write_preview(data, spec, settings.preview, settings.seed, _augmentation(settings))
        log.info("%s: augmented images with their boxes", settings.preview)
    if folder is None:
        return 0
    recipe = _recipe(settings, data, spec.name, precision)
    run = {
        "model": spec.name,
        "labels": list(spec.labels),
        "weights": digest,
        "data": data.digest,
        "validation": validation and validation.digest,
        **asdict(recipe),
    }
    if processes.shared(processes.is_first and _is_finished(folder, run, settings)):
        folder.clear_state()
        log.info("%s: finished already (--overwrite without --resume trains again)", folder.output)
        return 0
    if processes.is_first and not settings.resume:
        folder.clear()
    training = Training(network, spec, data, recipe, device, folder, run, processes)
    if settings.resume and training.resume():
        where = f"after epoch {len(training.history)}" if training.history else "with epoch 1"
        log.info("going on %s of %d", where, recipe.epochs)
    log.info(
        "training %s for %s on %s in %s: %d images, %d epochs in batches of %d; kept is the epoch "
        "with the %s",
        spec.name,
        ", ".join(spec.labels[1:]),
        device,
        precision,
        len(data.images),
        recipe.epochs,
        recipe.batch,
        "highest AP" if validation else "lowest training loss (--val would measure AP)",
    )
    if not _run(training, data, validation, settings, recipe, processes):
        where = f"after epoch {len(training.history)}" if training.history else "from the start"
        log.warning("stopped: run the same command with --resume to go on %s", where)
        return 130
    if processes.is_first:
        _finish(training, folder, settings, data, validation)
    return 0


def _run(
    training: "Training",
    data: "DataSet",
    validation: "DataSet | None",
    settings: TrainSettings,
    recipe: "Recipe",
    processes: "Processes",
) -> bool:
    """Whether it came to the end. Raises WorkerError for what goes wrong on the way."""
    from ssd_core.errors import SsdError
    from ssd_core.training.loader import BatchLoader, default_workers

    stops: list[int] = []
    workers = settings.workers
    if workers is None:
        workers = max(default_workers() // processes.on_machine, 1)
    console = TrainingConsole(recipe.epochs, len(data.images), len(training.history))

    validate = None if validation is None else _validate(validation, console)
    loader = BatchLoader(
        data,
        training.spec,
        recipe.batch,
        seed=recipe.seed,
        augment=recipe.augmentation,
        workers=workers,
        shard=(processes.number, processes.count),
    )
    shown = console if processes.is_first else nullcontext()
    try:
        with (
            loader,
            _curves(training, settings, len(loader), processes) as curves,
            shown,
            on_stop_signals(lambda: stops.append(1)),
        ):

            def on_step(progress: "Progress") -> None:
                console.step(progress.epoch, progress.images, progress.loss)
                if curves is not None:
                    curves.batch(progress)

            def on_epoch(epoch: "Epoch") -> None:
                _report(epoch, console, is_best=epoch is training.best)
                if curves is not None:
                    curves.epoch(epoch)

            return training.run(
                loader,
                validate,
                on_step=on_step if processes.is_first else lambda progress: None,
                on_epoch=on_epoch,
                should_stop=lambda: bool(stops),
            )
    except SsdError as error:
        raise WorkerError(str(error)) from error


def _curves(
    training: "Training", settings: TrainSettings, batches: int, processes: "Processes"
) -> AbstractContextManager["TensorBoard | None"]:
    """TensorBoard's, if it is asked for; only the first process writes them."""
    if settings.tensorboard is None or not processes.is_first:
        return nullcontext()
    from ssd_core.training.tensorboard import TensorBoard

    return TensorBoard(settings.tensorboard, batches, training.measured)


def _report(epoch: "Epoch", console: TrainingConsole, *, is_best: bool) -> None:
    if epoch.number == 0:
        console.start(epoch.numbers)
        return
    console.epoch(
        epoch.number,
        {"boxes": epoch.regression_loss or 0.0, "classes": epoch.classification_loss or 0.0},
        epoch.numbers,
        epoch.images_per_second or 0.0,
        is_best=is_best,
    )


def _validate(validation: "DataSet", console: TrainingConsole) -> "Validate":
    from ssd_core.evaluation import DETECTION_THRESHOLD, detect_all, evaluate

    total = len(validation.images)

    def validate(detector: "Detector") -> Mapping[str, float | None]:
        found = detect_all(
            detector, validation, on_progress=lambda done: console.validating(done, total)
        )
        result = evaluate(found, validation, known=detector.spec.labels, floor=DETECTION_THRESHOLD)
        threshold = None if result.balanced is None else result.balanced.score_threshold
        return result.numbers | {"score_threshold": threshold}

    return validate


def _read_data(settings: TrainSettings) -> tuple["DataSet", "DataSet | None"]:
    """The data to learn from and, if asked for, that to measure on. Raises DataError."""
    from ssd_core.training.data_sets.reading import read_data_set
    from worker.commands.recordings import Recordings

    recordings = Recordings(Limits())
    data = read_data_set(
        [Path(path) for path in settings.data],
        images=settings.images,
        skip_invalid=settings.skip_invalid,
        recordings=recordings,
    )
    if settings.val is None:
        return data, None
    validation = read_data_set(
        [settings.val],
        images=settings.val_images or settings.images,
        labels=data.labels,
        skip_invalid=settings.skip_invalid,
        recordings=recordings,
    )
    if validation.digest == data.digest:
        log.warning("--val is the data that is learnt from: its AP says nothing about other images")
    return data, validation


def _recipe(settings: TrainSettings, data: "DataSet", model: str, precision: str) -> "Recipe":
    """What the settings say, or the defaults for this model and data set."""
    from ssd_core.training.recipe import Recipe, default_epochs, default_learning_rate

    images = len(data.images)
    batch = min(settings.batch, images)
    accumulate = min(settings.accumulate, math.ceil(images / batch))
    if "batch" in settings.model_fields_set and batch < settings.batch:
        log.warning("--batch %d: there are only %d images: using %d", settings.batch, images, batch)
    if images == 1:
        log.warning("one image teaches how it looks itself, and nothing about others")
    return Recipe(
        epochs=settings.epochs or default_epochs(images, batch * accumulate),
        batch=batch,
        learning_rate=settings.lr
        or default_learning_rate(model, batch * accumulate, settings.optimizer),
        accumulate=accumulate,
        freeze=settings.freeze,
        seed=settings.seed,
        precision=precision,
        optimizer=settings.optimizer,
        schedule=settings.schedule,
        ema=settings.ema,
        augmentation=_augmentation(settings),
    )


def _augmentation(settings: TrainSettings) -> "Augmentation | None":
    from ssd_core.training.augment import LIGHT, PAPER

    chosen = {"paper": PAPER, "light": LIGHT, "none": None}[settings.augment]
    return None if chosen is None else replace(chosen, flip=settings.flip)


def _is_finished(folder: "RunFolder", run: Mapping[str, Any], settings: TrainSettings) -> bool:
    """Whether the output is that of this run. Raises UsageError if it is another's."""
    if not settings.resume or not folder.output.exists():
        return False
    if folder.made_by() == json.loads(json.dumps(run)):
        return True
    check_place(folder.output, may_exist=settings.overwrite)
    return False


def _finish(
    training: "Training",
    folder: "RunFolder",
    settings: TrainSettings,
    data: "DataSet",
    validation: "DataSet | None",
) -> None:
    """Write the output, then remove what it makes superfluous."""
    import torch

    from ssd_core.errors import SsdError
    from ssd_core.training.run_folder import write_weights

    assert training.best is not None
    record = {
        "images": len(data.images),
        "objects": sum(len(image.classes) for image in data.images),
        "validation_images": validation and len(validation.images),
        "versions": {name: version(name) for name in ("ssd-worker", "torch", "torchvision")},
    }
    dtype = torch.float16 if settings.half else None
    spec = training.best_spec(record)
    try:
        write_weights(folder.output, training.best_network(), spec, dtype)
    except SsdError as error:
        raise WorkerError(
            f"{error}: the run is kept: give the same command again with --resume"
        ) from error
    folder.clear_state()
    _draw(training, folder, validation or data)
    best = training.best
    merit = f"AP {best.numbers['AP'] or 0:.3f}" if best.numbers else f"loss {best.loss:.3f}"
    why = " (the highest F1 on the validation set)" if best.numbers else ""
    if best is training.start:
        log.warning(
            "no epoch reached a higher AP than the starting weights (%.3f): the output holds the "
            "starting weights, unchanged: try a lower --lr than %s, or more images",
            best.numbers["AP"],
            f"{training.recipe.learning_rate:.2g}",
        )
    print(
        f"best epoch: {best.number} of {len(training.history)} ({merit})\n"
        f"score threshold: {spec.score_threshold:g}{why}\n"
        f"weights: {folder.output}, for --weights of run, replay and evaluate",
        file=sys.stderr,
    )


def _draw(training: "Training", folder: "RunFolder", shown: "DataSet") -> None:
    """Curves and samples; the weights are there, so that what fails here is only told."""
    from ssd_core.errors import SsdError
    from ssd_core.training.figures import write_curves, write_samples

    try:
        if find_spec("matplotlib") is None:
            log.warning("no curves are drawn: %s", INSTALL)
        else:
            write_curves(training.measured, folder.path / "curves.png")
        write_samples(training.best_detector(), shown, folder.path / "samples.png")
    except SsdError as error:
        log.warning("%s", error)
