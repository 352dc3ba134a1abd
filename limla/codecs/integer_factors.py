"""Integer matrix factorisation: X ≈ U Vᵀ, where the entries of U and V are whole numbers from -16 to 15.

After Ashtari et al., "Quantization-free Lossy Image Compression Using Integer Matrix Factorization" (arXiv 2408.12691):
block coordinate descent from a truncated SVD. Each column of a factor in turn becomes its least-squares optimum given
all else, rounded and clamped; the error is a parabola in each entry, so that is the best whole number, and no step
makes the error larger.

X holds whole numbers too. Every sum of the descent is then a whole number below 2^53, exact in float64 in any order,
and what is not (the SVD) is computed in one fixed order: equal rows give equal factors, however many threads there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from limla.kernels import kernel

WIDTH = 64
"""Columns of X: the pixels of a patch."""
LOWEST, HIGHEST = -16, 15
"""Of the entries of U and V, both included."""
MOST_FITTED_ROWS = 1 << 14
"""V is found from that many rows of X, evenly spread, where there are more."""
_MOST_SWEEPS = 30
_NOTHING = 1e-9
"""Of the largest squared singular value: what is below comes from rounding."""

Rows = npt.NDArray[np.int16]
Factor = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float64]


class Factors(NamedTuple):
    """`u` (rank, N) and `v` (rank, 64), int8: a component each row, as they are coded."""

    u: Factor
    v: Factor


def svd_start(x: Rows) -> Floats:
    """V at the start of the descent, (components, 64) float64, largest first: the right singular vectors of X.

    Each is as long as the square root of its singular value, so that its column of U is as long. There are as many as
    X has rank. X is (N, 64) int16, magnitudes up to 255.
    """
    x = _fitted(x)
    gram = np.zeros((WIDTH, WIDTH))
    _gram(x.ctypes.data, len(x), gram.ctypes.data)
    directions = np.eye(WIDTH)
    _jacobi(gram.ctypes.data, directions.ctypes.data, _MOST_SWEEPS)
    squares = np.diagonal(gram)
    order = np.argsort(-squares, kind="stable")
    order = order[squares[order] > _NOTHING * squares.max()]
    # square roots are correctly rounded on every machine, powers are not
    return directions[order] * np.sqrt(np.sqrt(squares[order]))[:, None]


def factorise(x: Rows, start: Floats, num_rounds: int) -> Factors:
    """The factors of (N, 64) int16 rows: U, then V and U again in each round, until V stays or rounds are over.

    Args:
        x: magnitudes up to 255.
        start: of V, (rank, 64).
        num_rounds: 0 or more; another never makes the error larger.
    """
    rank = len(start)
    v = np.clip(np.rint(start), LOWEST, HIGHEST)
    fitted = _fitted(x)
    u = np.zeros((len(fitted), rank), np.int8)
    for _ in range(num_rounds):
        better = _better_v(v, *_improve_u(fitted, u, v))
        if np.array_equal(better, v):
            break
        v = better
    if len(fitted) < len(x):
        u = np.zeros((len(x), rank), np.int8)
        _improve_u(x, u, v)
    _improve_u(x, u, v)
    return Factors(np.ascontiguousarray(u.T), v.astype(np.int8))


def _fitted(x: Rows) -> Rows:
    return np.ascontiguousarray(x[:: max(1, -(-len(x) // MOST_FITTED_ROWS))])


def _improve_u(x: Rows, u: Factor, v: Floats) -> tuple[Floats, Floats]:
    """Replace each column of U (N, rank) in turn, in place; UᵀX (rank, 64) and UᵀU (rank, rank) of the new U."""
    rank = len(v)
    gram = v @ v.T
    columns = np.ascontiguousarray(v.T)
    products, squares = np.zeros((WIDTH, rank)), np.zeros((rank, rank))
    room = np.zeros(2 * rank)
    arrays = (np.ascontiguousarray(x), u, columns, gram, products, squares, room)
    _improve_rows(len(x), rank, LOWEST, HIGHEST, *(array.ctypes.data for array in arrays))
    return products.T, squares


def _better_v(v: Floats, products: Floats, squares: Floats) -> Floats:
    """V with each component replaced in turn; one that U does not use stays."""
    v = v.copy()
    for number in range(len(v)):
        square = squares[number, number]
        if square > 0:
            rest = products[number] - squares[number] @ v
            v[number] = np.clip(np.floor(v[number] + rest / square + 0.5), LOWEST, HIGHEST)
    return v


@kernel("int16*", "int64", "float64*")
def _gram(x: Any, num_rows: int, gram: Any) -> None:
    """Add XᵀX."""
    for row in range(num_rows):
        for i in range(64):
            factor = float(x[row * 64 + i])
            for j in range(64):
                gram[i * 64 + j] += factor * x[row * 64 + j]


@kernel("float64*", "float64*", "int64")
def _jacobi(matrix: Any, directions: Any, most_sweeps: int) -> None:
    """Make a symmetric (64, 64) matrix diagonal by rotations, which turn the rows of `directions` too.

    The cyclic Jacobi method (Golub & Van Loan, Matrix Computations, 8.5); it converges in about 8 sweeps.
    """
    for _ in range(most_sweeps):
        largest = beside = 0.0
        for p in range(64):
            largest = max(largest, abs(matrix[p * 65]))
            for q in range(p + 1, 64):
                beside = max(beside, abs(matrix[p * 64 + q]))
        if beside <= 1e-10 * largest:
            return
        for p in range(63):
            for q in range(p + 1, 64):
                between = matrix[p * 64 + q]
                if abs(between) > 1e-12 * largest:
                    slope = (matrix[q * 65] - matrix[p * 65]) / (2.0 * between)
                    tangent = 1.0 / (abs(slope) + np.sqrt(slope * slope + 1.0))
                    if slope < 0.0:
                        tangent = -tangent
                    cosine = 1.0 / np.sqrt(tangent * tangent + 1.0)
                    sine = tangent * cosine
                    for k in range(64):
                        one, two = matrix[p * 64 + k], matrix[q * 64 + k]
                        matrix[p * 64 + k] = cosine * one - sine * two
                        matrix[q * 64 + k] = sine * one + cosine * two
                    for k in range(64):
                        one, two = matrix[k * 64 + p], matrix[k * 64 + q]
                        matrix[k * 64 + p] = cosine * one - sine * two
                        matrix[k * 64 + q] = sine * one + cosine * two
                    for k in range(64):
                        one, two = directions[p * 64 + k], directions[q * 64 + k]
                        directions[p * 64 + k] = cosine * one - sine * two
                        directions[q * 64 + k] = sine * one + cosine * two


@kernel(
    "int64",
    "int64",
    "int64",
    "int64",
    "int16*",
    "int8*",
    "float64*",
    "float64*",
    "float64*",
    "float64*",
    "float64*",
)
def _improve_rows(
    num_rows: int,
    rank: int,
    lowest: int,
    highest: int,
    x: Any,
    u: Any,
    v: Any,
    gram: Any,
    products: Any,
    squares: Any,
    room: Any,
) -> None:
    """`_improve_u`, row by row: each column's optimum is a matter of single rows, so the order is the same.

    `v` is (64, rank), `products` too; `room` holds what is left of a row of X V, and the row of U.
    """
    for row in range(num_rows):
        at, begin = row * rank, row * 64
        for r in range(rank):
            room[r] = 0.0
            room[rank + r] = float(u[at + r])
        for k in range(64):
            pixel = float(x[begin + k])
            for r in range(rank):
                room[r] += pixel * v[k * rank + r]
        for s in range(rank):
            entry = room[rank + s]
            if entry != 0.0:
                for r in range(rank):
                    room[r] -= entry * gram[s * rank + r]
        for s in range(rank):
            entry, square, best = room[rank + s], gram[s * rank + s], 0.0
            if square > 0.0:
                best = np.floor(entry + room[s] / square + 0.5)
                best = min(max(best, float(lowest)), float(highest))
            change = best - entry
            if change != 0.0:
                room[rank + s] = best
                for r in range(rank):
                    room[r] -= change * gram[s * rank + r]
        for s in range(rank):
            entry = room[rank + s]
            u[at + s] = int(entry)
            if entry != 0.0:
                for r in range(rank):
                    squares[s * rank + r] += entry * room[rank + r]
        for k in range(64):
            pixel = float(x[begin + k])
            for r in range(rank):
                products[k * rank + r] += pixel * room[rank + r]
