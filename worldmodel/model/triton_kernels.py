"""Triton kernels of a Mamba-2 block over short sequences: convolution, scan of one chunk, gated norm, both ways.

A program holds all frames of a sequence (L, a power of two of at least the T frames), so no state of the scan is
written to memory. Sums are in float32. `short_scan.py` launches them and names the tensors.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_frames(base, stride, frames, columns, T, C):
    """Rows `frames` of a matrix with T rows; zeros outside."""
    inside = (frames[:, None] >= 0) & (frames[:, None] < T) & (columns[None, :] < C)
    return tl.load(base + frames[:, None] * stride + columns[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _mix_taps(base, stride, weight, bias, frames, columns, T, C, K: tl.constexpr):
    """bias + sum over k of weight[:, k] * frame[t - (K - 1) + k]."""
    mixed = tl.load(bias + columns, mask=columns < C, other=0.0)[None, :] + tl.zeros(
        (frames.shape[0], columns.shape[0]), tl.float32
    )
    for k in tl.static_range(K):
        tap = tl.load(weight + columns * K + k, mask=columns < C, other=0.0)
        mixed += tap[None, :] * _load_frames(base, stride, frames - (K - 1) + k, columns, T, C)
    return mixed


@triton.jit
def convolve_forward(X, W, B, Y, stride_x, T, C, K: tl.constexpr, L: tl.constexpr, BLOCK: tl.constexpr):
    """Y = silu(convolution of X over time). Grid: (sequence, block of channels)."""
    sequence = tl.program_id(0).to(tl.int64)
    frames, columns = tl.arange(0, L), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mixed = _mix_taps(X + sequence * T * stride_x, stride_x, W, B, frames, columns, T, C, K)
    inside = (frames[:, None] < T) & (columns[None, :] < C)
    place = Y + sequence * T * C + frames[:, None] * C + columns[None, :]
    tl.store(place, (mixed * tl.sigmoid(mixed)).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def _slope(base, stride, weight, bias, DY, shared, frames, columns, T, C, inner, G, K: tl.constexpr):
    """The gradient before the SiLU. Channels behind `inner` add up what G groups of heads say of them."""
    mixed = _mix_taps(base, stride, weight, bias, frames, columns, T, C, K)
    gradient = _load_frames(DY, inner, frames, columns, T, inner)
    for group in range(G):
        part = shared + group * T * (C - inner)
        inside = (frames[:, None] >= 0) & (frames[:, None] < T) & (columns[None, :] >= inner) & (columns[None, :] < C)
        place = part + frames[:, None] * (C - inner) + columns[None, :] - inner
        gradient += tl.load(place, mask=inside, other=0.0)
    sigmoid = tl.sigmoid(mixed)
    return gradient * sigmoid * (1 + mixed * (1 - sigmoid))


@triton.jit
def convolve_backward(
    X, W, B, DY, SHARED, DX, PARTS, stride_x, T, C, inner, G, K: tl.constexpr, L: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """DX, and each sequence's part of the gradients of W and B: PARTS (sequence, K + 1, C). Grid as forward."""
    sequence = tl.program_id(0).to(tl.int64)
    frames, columns = tl.arange(0, L), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    X += sequence * T * stride_x
    DY += sequence * T * inner
    SHARED += sequence * G * T * (C - inner)
    PARTS += sequence * (K + 1) * C
    to_x = tl.zeros((L, BLOCK), tl.float32)
    for ahead in tl.static_range(K):
        slope = _slope(X, stride_x, W, B, DY, SHARED, frames + ahead, columns, T, C, inner, G, K)
        tap = tl.load(W + columns * K + (K - 1 - ahead), mask=columns < C, other=0.0)
        to_x += tap[None, :] * slope
        if ahead == 0:
            tl.store(PARTS + K * C + columns, tl.sum(slope, 0), mask=columns < C)
            for k in tl.static_range(K):
                seen = _load_frames(X, stride_x, frames - (K - 1) + k, columns, T, C)
                tl.store(PARTS + k * C + columns, tl.sum(slope * seen, 0), mask=columns < C)
    inside = (frames[:, None] < T) & (columns[None, :] < C)
    place = DX + sequence * T * stride_x + frames[:, None] * stride_x + columns[None, :]
    tl.store(place, to_x.to(DX.dtype.element_ty), mask=inside)


@triton.jit
def _find_decay(DT, dt_bias, A_log, head, frames, stride, T):
    """Raw and positive step sizes, the decay rate, and the decay up to each frame."""
    raw = tl.load(DT + frames * stride + head, mask=frames < T, other=0.0).to(tl.float32) + tl.load(dt_bias + head)
    dt = tl.where(raw > 20.0, raw, tl.log(1 + tl.exp(tl.minimum(raw, 20.0))))
    dt = tl.where(frames < T, dt, 0.0)
    rate = -tl.exp(tl.load(A_log + head))
    return raw, dt, rate, tl.cumsum(dt * rate, 0)


@triton.jit
def scan_forward(
    XBC, DT, dt_bias, A_log, D, Y, stride_dt, T, C, inner, heads,
    P: tl.constexpr, N: tl.constexpr, L: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Y = the scan's output. Grid: (sequence x head). BP, BN: P and N up to a power of two of at least 16."""
    sequence, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    frames, width, states = tl.arange(0, L), tl.arange(0, BP), tl.arange(0, BN)
    XBC += sequence * T * C
    _, dt, _, decay = _find_decay(DT + sequence * T * stride_dt, dt_bias, A_log, head, frames, stride_dt, T)
    x = _load_frames(XBC + head * P, C, frames, width, T, P)
    b = _load_frames(XBC + inner, C, frames, states, T, N).to(XBC.dtype.element_ty)
    c = _load_frames(XBC + inner + N, C, frames, states, T, N).to(XBC.dtype.element_ty)
    past = frames[:, None] >= frames[None, :]
    fade = tl.where(past, tl.exp(tl.where(past, decay[:, None] - decay[None, :], 0.0)), 0.0)
    weights = tl.dot(c, tl.trans(b)) * fade * dt[None, :]
    y = tl.dot(weights.to(XBC.dtype.element_ty), x.to(XBC.dtype.element_ty)) + tl.load(D + head) * x
    inside = (frames[:, None] < T) & (width[None, :] < P)
    place = Y + sequence * T * inner + frames[:, None] * inner + head * P + width[None, :]
    tl.store(place, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def scan_backward(
    XBC, DT, dt_bias, A_log, D, DY, DX, DDT, SHARED, PARTS, stride_dt, T, C, inner, heads, sequences,
    EACH: tl.constexpr, P: tl.constexpr, N: tl.constexpr, L: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of x (DX), of raw step sizes (DDT), of b and c summed over a group's heads (SHARED), and each
    sequence's part of those of dt_bias, A_log and D: PARTS (3, sequence, head). Grid: (sequence, group of EACH heads).
    """
    sequence, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    frames, width, states = tl.arange(0, L), tl.arange(0, BP), tl.arange(0, BN)
    XBC += sequence * T * C
    DT += sequence * T * stride_dt
    DDT += sequence * T * stride_dt
    kind = XBC.dtype.element_ty
    b = _load_frames(XBC + inner, C, frames, states, T, N).to(kind)
    c = _load_frames(XBC + inner + N, C, frames, states, T, N).to(kind)
    overlap = tl.dot(c, tl.trans(b))
    past = frames[:, None] >= frames[None, :]
    to_b = tl.zeros((L, BN), tl.float32)
    to_c = tl.zeros((L, BN), tl.float32)
    for each in range(EACH):
        head = group * EACH + each
        if head < heads:
            raw, dt, rate, decay = _find_decay(DT, dt_bias, A_log, head, frames, stride_dt, T)
            x = _load_frames(XBC + head * P, C, frames, width, T, P)
            dy = _load_frames(DY + sequence * T * inner + head * P, inner, frames, width, T, P)
            skip = tl.load(D + head)
            fade = tl.where(past, tl.exp(tl.where(past, decay[:, None] - decay[None, :], 0.0)), 0.0)
            to_weights = tl.dot(dy.to(kind), tl.trans(x.to(kind)))
            to_overlap = to_weights * fade * dt[None, :]
            to_c += tl.dot(to_overlap.to(kind), b)
            to_b += tl.dot(tl.trans(to_overlap).to(kind), c)
            weights = overlap * fade * dt[None, :]
            to_x = tl.dot(tl.trans(weights).to(kind), dy.to(kind)) + skip * dy
            inside = (frames[:, None] < T) & (width[None, :] < P)
            place = DX + sequence * T * inner + frames[:, None] * inner + head * P + width[None, :]
            tl.store(place, to_x.to(DX.dtype.element_ty), mask=inside)
            flow = to_weights * weights
            later = tl.sum(flow, 1) - tl.sum(flow, 0)
            ahead = tl.sum(later, 0) - tl.cumsum(later, 0) + later
            to_dt = tl.sum(to_weights * overlap * fade, 0) + rate * ahead
            to_raw = tl.where(frames < T, to_dt * tl.sigmoid(raw), 0.0)
            tl.store(DDT + frames * stride_dt + head, to_raw.to(DDT.dtype.element_ty), mask=frames < T)
            part = PARTS + sequence * heads + head
            tl.store(part, tl.sum(to_raw, 0))
            tl.store(part + sequences * heads, rate * tl.sum(dt * ahead, 0))
            tl.store(part + 2 * sequences * heads, tl.sum(tl.sum(dy * x, 1), 0))
    inside = (frames[:, None] < T) & (states[None, :] < N)
    place = SHARED + (sequence * tl.num_programs(1) + group) * T * 2 * N + frames[:, None] * 2 * N + states[None, :]
    tl.store(place, to_b, mask=inside)
    tl.store(place + N, to_c, mask=inside)


@triton.jit
def gate_forward(Y, Z, W, OUT, stride_z, width, epsilon, BLOCK: tl.constexpr):
    """OUT = W * rms_norm(Y * silu(Z)). Grid: (row)."""
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = columns < width
    y = tl.load(Y + row * width + columns, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(Z + row * stride_z + columns, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(W + columns, mask=inside, other=0.0)
    gated = y * z * tl.sigmoid(z)
    scale = 1 / tl.sqrt(tl.sum(gated * gated, 0) / width + epsilon)
    tl.store(OUT + row * width + columns, (gated * scale * w).to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def gate_backward(Y, Z, W, DOUT, DY, DZ, PARTS, stride_z, rows, width, epsilon, EACH, BLOCK: tl.constexpr):
    """Gradients of Y and Z, and each program's part of that of W: PARTS (program, width). Grid: (EACH rows)."""
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    w = tl.load(W + columns, mask=inside, other=0.0)
    to_w = tl.zeros((BLOCK,), tl.float32)
    first = tl.program_id(0).to(tl.int64) * EACH
    for row in range(first, tl.minimum(first + EACH, rows)):
        y = tl.load(Y + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        z = tl.load(Z + row * stride_z + columns, mask=inside, other=0.0).to(tl.float32)
        d = tl.load(DOUT + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(z)
        gated = y * z * sigmoid
        scale = 1 / tl.sqrt(tl.sum(gated * gated, 0) / width + epsilon)
        unit = gated * scale
        to_w += d * unit
        to_gated = (w * d - unit * (tl.sum(unit * w * d, 0) / width)) * scale
        to_y, to_z = to_gated * z * sigmoid, to_gated * y * sigmoid * (1 + z * (1 - sigmoid))
        tl.store(DY + row * width + columns, to_y.to(DY.dtype.element_ty), mask=inside)
        tl.store(DZ + row * stride_z + columns, to_z.to(DZ.dtype.element_ty), mask=inside)
    tl.store(PARTS + tl.program_id(0) * width + columns, to_w, mask=inside)
