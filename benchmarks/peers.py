"""What people use today for the same work, written as its documentation shows; see `limla.benchmarking.passes`.

Every contender gets as many processes or threads as there are cores, and torch's own threads are one per worker.
None of them checks a SHA-256 or waits for the disk (fsync).
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import PIL.Image

from limla.benchmarking.checks import PictureFacts
from limla.benchmarking.data import LOOSE
from limla.benchmarking.passes import Steps
from limla.errors import MissingDependencyError
from limla.manifest import SOURCE, read_manifest

IMAGE_SIZE, RESIZE = 224, 256
_FILES_AT_ONCE = 8


def _tars(data_dir: str) -> list[Path]:
    folder = Path(data_dir) / SOURCE
    return [folder / shard.name for shard in read_manifest(folder).shards]


def _empty(folder: Path) -> None:
    """Make `folder` anew, so that no pass has to replace the files of the one before."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


# re-encode ----------------------------------------------------------------------------------------------------------


def webdataset_reencode(
    data_dir: str, output_dir: str, qualities: Sequence[int], threads: int, check: bool
) -> Steps:
    """The usual script: a pool of processes, each reads a shard by webdataset and writes a ShardWriter per quality."""
    import simplejpeg  # noqa: F401 - imports are not work
    import webdataset  # noqa: F401

    jobs = [(path, output_dir, tuple(qualities)) for path in _tars(data_dir)]
    for quality in qualities:
        _empty(Path(output_dir) / f"q{quality}")
    yield 0
    return (yield from _pooled(_reencode_shard, jobs, threads, 1, check))


def _reencode_shard(job: tuple[Path, str, tuple[int, ...]]) -> tuple[int, Counter[int]]:
    import simplejpeg
    import webdataset

    wds: Any = webdataset
    path, output_dir, qualities = job
    sizes: Counter[int] = Counter()
    writers = {
        quality: wds.ShardWriter(f"{output_dir}/q{quality}/{path.stem}-%06d.tar", maxcount=1_000_000, verbose=0)
        for quality in qualities
    }
    count = 0
    for sample in wds.WebDataset([str(path)], shardshuffle=False):
        # the same decoding and encoding as limla's: simplejpeg's defaults are coarser
        image = simplejpeg.decode_jpeg(sample["jpg"], "RGB", fastdct=False, fastupsample=False)
        for quality, writer in writers.items():
            data = simplejpeg.encode_jpeg(image, quality, "RGB", colorsubsampling="420", fastdct=False)
            writer.write(
                {"__key__": sample["__key__"], "jpg": data, "cls": sample["cls"], "json": sample["json"]}
            )
            sizes[quality] += len(data)
        count += 1
    for writer in writers.values():
        writer.close()
    return count, sizes


def pillow_reencode(
    data_dir: str, output_dir: str, qualities: Sequence[int], threads: int, check: bool
) -> Steps:
    """Loose files to loose files by Pillow, a pool of processes over the files."""
    folder = Path(data_dir) / LOOSE
    paths = sorted(folder.rglob("*.jpg"))
    targets = {quality: Path(output_dir) / f"loose-q{quality}" for quality in qualities}
    for target in targets.values():
        for name in {path.parent.name for path in paths}:
            _empty(target / name)
    yield 0
    return (
        yield from _pooled(_reencode_file, [(path, targets) for path in paths], threads, _FILES_AT_ONCE, check)
    )


def _reencode_file(job: tuple[Path, dict[int, Path]]) -> tuple[int, Counter[int]]:
    path, targets = job
    sizes: Counter[int] = Counter()
    with PIL.Image.open(path) as picture:
        image = picture.convert("RGB")
    for quality, folder in targets.items():
        target = folder / path.parent.name / path.name
        image.save(target, "JPEG", quality=quality, subsampling="4:2:0")
        sizes[quality] += target.stat().st_size
    return 1, sizes


def _pooled(function: Any, jobs: list[Any], threads: int, at_once: int, check: bool) -> Steps:
    """`function` of each job in a pool of forked processes; sums up the images and bytes per quality."""
    count, sizes = 0, Counter[int]()
    with multiprocessing.get_context("fork").Pool(threads) as pool:
        for number, found in pool.imap_unordered(function, jobs, chunksize=at_once):
            count += number
            sizes += found
            yield number
        pool.close()
        pool.join()
    return (
        {"files": {str(quality): [count, num_bytes] for quality, num_bytes in sizes.items()}} if check else {}
    )


# load ---------------------------------------------------------------------------------------------------------------


def _pillow_transform() -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [transforms.Resize(RESIZE), transforms.CenterCrop(IMAGE_SIZE), transforms.ToTensor()]
    )


def _batches(batches: Iterable[Any], check: bool) -> Steps:
    """Count the (N, 3, S, S) float32 tensors; with `check`, sum up what they show."""
    facts = PictureFacts()
    for images in batches:
        if check:
            facts.add(images.contiguous().numpy())
        yield len(images)
    return facts.facts() if check else {}


def torchvision_folder(data_dir: str, batch_size: int, threads: int, check: bool) -> Steps:
    """torchvision's ImageFolder on loose files, Pillow, a DataLoader with one worker per core."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    transform = _pillow_transform()
    yield 0
    dataset = ImageFolder(str(Path(data_dir) / LOOSE), transform)
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=threads)
    return (yield from _batches((images for images, _ in loader), check))


def webdataset_pil(data_dir: str, batch_size: int, threads: int, check: bool) -> Steps:
    """webdataset's pipeline with its Pillow decoder, in a DataLoader with one worker per core."""
    import webdataset

    wds: Any = webdataset
    transform = _pillow_transform()
    yield 0
    dataset = (
        wds.WebDataset([str(path) for path in _tars(data_dir)], shardshuffle=False)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
        .batched(batch_size)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=threads)
    return (yield from _batches((images for images, _ in loader), check))


def webdataset_simplejpeg(data_dir: str, batch_size: int, threads: int, check: bool) -> Steps:
    """As `webdataset_pil`, decoded by simplejpeg and resized by torchvision's fast path for uint8 tensors."""
    import simplejpeg
    import torch
    import webdataset
    from torchvision.transforms import v2

    wds: Any = webdataset
    transform = v2.Compose(
        [
            v2.Resize(RESIZE, antialias=True),
            v2.CenterCrop(IMAGE_SIZE),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )

    def decode(data: bytes) -> torch.Tensor:
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
        # (3, H, W) over the same memory, which is channels_last: what the uint8 path is fastest on
        return transform(torch.from_numpy(pixels).permute(2, 0, 1)).contiguous()

    yield 0
    dataset = (
        wds.WebDataset([str(path) for path in _tars(data_dir)], shardshuffle=False)
        .to_tuple("jpg", "cls")
        .map_tuple(decode, int)
        .batched(batch_size)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=threads)
    return (yield from _batches((images for images, _ in loader), check))


def dali_as_documented(data_dir: str, batch_size: int, threads: int, check: bool) -> Steps:
    """DALI on the CPU as its documentation puts it together: the pages on webdataset and on ResNet-50's validation.

    The reader over tars and their indexes, the whole image decoded and resized, then cropped, and DALI's iterator
    for torch; executor, queue and decoder are left at their defaults. Scaled to [0, 1] instead of by ImageNet's means.
    """
    import nvidia.dali
    import nvidia.dali.fn
    import nvidia.dali.plugin.pytorch
    import nvidia.dali.types

    # the operators are made at import; the type stubs describe only part of them
    dali: Any = nvidia.dali
    fn, types, plugin = dali.fn, dali.types, dali.plugin.pytorch
    tars = _tars(data_dir)

    @dali.pipeline_def
    def pipeline() -> Any:
        encoded, label = fn.readers.webdataset(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
            pad_last_batch=True,
            name="Reader",
        )
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        images = fn.resize(images, resize_shorter=RESIZE, interp_type=types.INTERP_TRIANGULAR)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            crop=(IMAGE_SIZE, IMAGE_SIZE),
            rounding="truncate",  # torchvision's crop begins there, DALI's default a pixel later
            mean=[0.0] * 3,
            std=[255.0] * 3,
        )
        return images, label

    yield 0
    loader = plugin.DALIClassificationIterator(
        pipeline(batch_size=batch_size, num_threads=threads, device_id=None),
        reader_name="Reader",
        last_batch_policy=plugin.LastBatchPolicy.PARTIAL,
    )
    return (yield from _batches((batches[0]["data"] for batches in loader), check))


def spdl(data_dir: str, batch_size: int, threads: int, check: bool) -> Steps:
    """SPDL's `load_image_batch` (FFmpeg: decode, scale, crop into one batch buffer), one thread per core.

    The package `spdl-io` alone has no pipeline: batches are handed to a thread pool and taken in order, two ahead
    for each thread. FFmpeg's "bilinear" widens its filter when it shrinks, as Pillow's does, and rounds otherwise.
    """
    import torch

    spdl_io = _spdl_io()
    torch.set_num_threads(1)
    scale = spdl_io.get_video_filter_desc(
        scale_width=RESIZE,
        scale_height=RESIZE,
        scale_algo="bilinear",
        scale_mode="crop",
        crop_width=IMAGE_SIZE,
        crop_height=IMAGE_SIZE,
        pix_fmt="rgb24",
    )

    def load(jpegs: list[bytes]) -> torch.Tensor:
        buffer = spdl_io.load_image_batch(jpegs, width=None, height=None, filter_desc=scale)
        # (N, H, W, 3) uint8 → (N, 3, H, W) float32 in [0, 1]
        return spdl_io.to_torch(buffer).permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def jpegs() -> Iterator[bytes]:
        for path in _tars(data_dir):
            with path.open("rb") as file:
                yield from (data for name, data in spdl_io.iter_tarfile(file) if name.endswith(".jpg"))

    yield 0
    with ThreadPoolExecutor(threads) as pool:
        return (yield from _batches(_ahead(pool, load, _grouped(jpegs(), batch_size), 2 * threads), check))


def _spdl_io() -> Any:
    """The module; raises `MissingDependencyError` where it, or the FFmpeg it needs, is not there."""
    try:
        import spdl.io
    except ModuleNotFoundError as error:
        raise MissingDependencyError("spdl.io is not installed: pip install 'limla[bench]'") from error
    try:
        spdl.io.demux_config()
    except RuntimeError as error:
        raise MissingDependencyError(
            "spdl.io finds no shared libraries of FFmpeg 4 to 9: apt install --no-install-recommends ffmpeg "
            "(Debian, Ubuntu)"
        ) from error
    return spdl.io


def _ahead(pool: ThreadPoolExecutor, function: Any, arguments: Iterable[Any], depth: int) -> Iterator[Any]:
    """`function` of each argument in order, at most `depth` of them under way."""
    window: deque[Future[Any]] = deque()
    for argument in arguments:
        if len(window) >= depth:
            yield window.popleft().result()
        window.append(pool.submit(function, argument))
    while window:
        yield window.popleft().result()


def _grouped(items: Iterable[bytes], number: int) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    for item in items:
        group.append(item)
        if len(group) == number:
            yield group
            group = []
    if group:
        yield group
