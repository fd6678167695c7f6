"""Triton kernels of `fused_color` and `fused_light`. Importing this module imports triton.

Every kernel does the operations of pipeline.color in its order, each rounded by itself: launch with `enable_fp_fusion=False`, so that
no multiplication and addition become one. Square roots and divisions are the exactly rounded ones. The result is then the same bits.

Curves are transfer.Curve's tables, an entry a 64-bit word: the value's 32 bits below, the slope's above, so that one read gets both.
Places of chroma samples are counted in eighths of their distance, which is exact for every layout and location.
"""

import triton
import triton.language as tl


@triton.jit
def _look_up(table: tl.tensor, x: tl.tensor, per_unit: float, steps: float) -> tl.tensor:
    place = tl.minimum(tl.maximum(x * per_unit, 0.0), steps)
    index = place.to(tl.int32)
    entry = tl.load(table + index)
    value = (entry & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    slope = (entry >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return (place - index.to(tl.float32)) * slope + value


@triton.jit
def _look_up_root(table: tl.tensor, x: tl.tensor, per_unit: float, steps: float) -> tl.tensor:
    root = tl.sqrt_rn(tl.sqrt_rn(tl.maximum(x, 0.0)))
    return _look_up(table, root, per_unit, steps)


@triton.jit
def _convert(
    r: tl.tensor, g: tl.tensor, b: tl.tensor, rg: float, rb: float, gr: float, gb: float, br: float, bg: float
) -> tuple:
    """Primaries, as color._convert_primaries_; rg is the matrix's entry for red's share of green, and so on."""
    g_r, b_r, b_g = g - r, b - r, b - g
    blue = b - b_r * br - b_g * bg
    green = g - g_r * gr + b_g * gb
    red = r + g_r * rg + b_r * rb
    return red, green, blue


@triton.jit
def _luminance(r: tl.tensor, g: tl.tensor, b: tl.tensor) -> tl.tensor:
    return r * 0.2627 + g * 0.6780 + b * 0.0593


@triton.jit
def _chroma_row(
    plane: tl.tensor, row: tl.tensor, near: tl.tensor, far: tl.tensor, weight: tl.tensor, mask: tl.tensor,
    stride_h: int, stride_w: int, offset: float, ACROSS: tl.constexpr
) -> tl.tensor:  # fmt: skip
    line = plane + row * stride_h
    here = tl.load(line + near * stride_w, mask=mask, other=0).to(tl.float32) - offset
    if ACROSS > 1:
        there = tl.load(line + far * stride_w, mask=mask, other=0).to(tl.float32) - offset
        here = (there - here) * weight + here
    return here


@triton.jit
def _chroma(
    plane: tl.tensor, row: tl.tensor, columns: tl.tensor, mask: tl.tensor, height: int, width: int,
    stride_h: int, stride_w: int, offset: float,
    ACROSS: tl.constexpr, DOWN: tl.constexpr, ACROSS_EIGHTHS: tl.constexpr, DOWN_EIGHTHS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Chroma about its neutral code at luma's places; height, width: of the chroma plane."""
    across = columns * (8 // ACROSS) - ACROSS_EIGHTHS
    near = across >> 3
    weight = (across & 7).to(tl.float32) * 0.125
    far = tl.minimum(near + 1, width - 1)
    near = tl.maximum(near, 0)
    if DOWN == 1:
        return _chroma_row(plane, row, near, far, weight, mask, stride_h, stride_w, offset, ACROSS)
    down = row * (8 // DOWN) - DOWN_EIGHTHS
    top = down >> 3
    bottom = tl.minimum(top + 1, height - 1)
    upper = _chroma_row(plane, tl.maximum(top, 0), near, far, weight, mask, stride_h, stride_w, offset, ACROSS)
    lower = _chroma_row(plane, bottom, near, far, weight, mask, stride_h, stride_w, offset, ACROSS)
    return (lower - upper) * ((down & 7).to(tl.float32) * 0.125) + upper


@triton.jit
def _signals(
    luma: tl.tensor, u: tl.tensor, v: tl.tensor, red_scale: float, blue_scale: float, green_u: float, green_v: float
) -> tuple:
    return v * red_scale + luma, luma - u * green_u - v * green_v, u * blue_scale + luma


@triton.jit
def unpack_kernel(
    first: tl.tensor, second: tl.tensor, third: tl.tensor, linear: tl.tensor, coded: tl.tensor,
    decode_table: tl.tensor, encode_table: tl.tensor,
    height: int, width: int, chroma_height: int, chroma_width: int,
    luma_stride_n: int, luma_stride_h: int, luma_stride_w: int,
    chroma_stride_n: int, chroma_stride_h: int, chroma_stride_w: int,
    luma_offset: float, luma_scale: float, chroma_offset: float,
    red_scale: float, blue_scale: float, green_u: float, green_v: float, top_signal: float,
    decode_low: float, decode_per_unit: float, decode_steps: float, encode_per_unit: float, encode_steps: float,
    rg: float, rb: float, gr: float, gb: float, br: float, bg: float,
    KIND: tl.constexpr, ACROSS: tl.constexpr, DOWN: tl.constexpr,
    ACROSS_EIGHTHS: tl.constexpr, DOWN_EIGHTHS: tl.constexpr,
    DECODE: tl.constexpr, CONVERT: tl.constexpr, CODED: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """A run of BLOCK pixels of one row: code planes -> linear light, and the network's input beside it.

    KIND: "yuv", "rgb" (planes G, B, R) or "gray"; DECODE: whether there is a curve; CODED: "none", "linear" or "curve".
    Program axes: runs of a row, rows, frames.
    """
    row = tl.program_id(1)
    frame = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    places = row * luma_stride_h + columns * luma_stride_w
    luma = (
        tl.load(first + frame * luma_stride_n + places, mask=mask, other=0).to(tl.float32) - luma_offset
    ) * luma_scale
    if KIND == "yuv":
        u = _chroma(
            second + frame * chroma_stride_n, row, columns, mask, chroma_height, chroma_width, chroma_stride_h,
            chroma_stride_w, chroma_offset, ACROSS, DOWN, ACROSS_EIGHTHS, DOWN_EIGHTHS
        )  # fmt: skip
        v = _chroma(
            third + frame * chroma_stride_n, row, columns, mask, chroma_height, chroma_width, chroma_stride_h,
            chroma_stride_w, chroma_offset, ACROSS, DOWN, ACROSS_EIGHTHS, DOWN_EIGHTHS
        )  # fmt: skip
        r, g, b = _signals(luma, u, v, red_scale, blue_scale, green_u, green_v)
    elif KIND == "rgb":
        places = row * chroma_stride_h + columns * chroma_stride_w
        blue = tl.load(second + frame * chroma_stride_n + places, mask=mask, other=0).to(tl.float32)
        red = tl.load(third + frame * chroma_stride_n + places, mask=mask, other=0).to(tl.float32)
        r, g, b = (red - luma_offset) * luma_scale, luma, (blue - luma_offset) * luma_scale
    else:
        r, g, b = luma, luma, luma
    r, g, b = tl.minimum(r, top_signal), tl.minimum(g, top_signal), tl.minimum(b, top_signal)
    if DECODE:
        r = _look_up(decode_table, r - decode_low, decode_per_unit, decode_steps)
        g = _look_up(decode_table, g - decode_low, decode_per_unit, decode_steps)
        b = _look_up(decode_table, b - decode_low, decode_per_unit, decode_steps)
    if CONVERT:
        r, g, b = _convert(r, g, b, rg, rb, gr, gb, br, bg)
    pixels = height * width
    start = frame * 3 * pixels + row * width
    tl.store(linear + start + columns, r, mask=mask)
    tl.store(linear + start + pixels + columns, g, mask=mask)
    tl.store(linear + start + 2 * pixels + columns, b, mask=mask)
    if CODED != "none":
        r = tl.minimum(tl.maximum(r, 0.0), 1.0)
        g = tl.minimum(tl.maximum(g, 0.0), 1.0)
        b = tl.minimum(tl.maximum(b, 0.0), 1.0)
        if CODED == "curve":
            r = _look_up_root(encode_table, r, encode_per_unit, encode_steps)
            g = _look_up_root(encode_table, g, encode_per_unit, encode_steps)
            b = _look_up_root(encode_table, b, encode_per_unit, encode_steps)
        tl.store(coded + start + columns, r, mask=mask)
        tl.store(coded + start + pixels + columns, g, mask=mask)
        tl.store(coded + start + 2 * pixels + columns, b, mask=mask)


@triton.jit
def _light(source: tl.tensor, extreme: float) -> tl.tensor:
    light = tl.load(source)
    light = tl.where(light != light, 0.0, light)
    return tl.minimum(tl.maximum(light, -extreme), extreme)


@triton.jit
def _hdr_signals(
    line: tl.tensor, columns: tl.tensor, stride_c: int, stride_w: int, table: tl.tensor, ootf_table: tl.tensor,
    extreme: float, white_nits: float, peak_nits: float, per_unit: float, steps: float,
    ootf_per_unit: float, ootf_steps: float, hlg_peak_nits: float, tiny: float,
    rg: float, rb: float, gr: float, gb: float, br: float, bg: float, HLG: tl.constexpr,
) -> tuple:  # fmt: skip
    """Pixels of one row of the working space -> luma, B' - Y', R' - Y' of BT.2020, as color._hdr_signals and _pack_frame."""
    places = line + columns * stride_w
    r = _light(places, extreme)
    g = _light(places + stride_c, extreme)
    b = _light(places + 2 * stride_c, extreme)
    r, g, b = _convert(r, g, b, rg, rb, gr, gb, br, bg)
    r = tl.minimum(tl.maximum(r * white_nits, 0.0), peak_nits)
    g = tl.minimum(tl.maximum(g * white_nits, 0.0), peak_nits)
    b = tl.minimum(tl.maximum(b * white_nits, 0.0), peak_nits)
    if HLG:
        r, g, b = tl.minimum(r, hlg_peak_nits), tl.minimum(g, hlg_peak_nits), tl.minimum(b, hlg_peak_nits)
        luminance = _luminance(r, g, b)
        gain = tl.div_rn(_look_up_root(ootf_table, luminance, ootf_per_unit, ootf_steps), luminance + tiny)
        r, g, b = r * gain, g * gain, b * gain
    r = _look_up_root(table, r, per_unit, steps)
    g = _look_up_root(table, g, per_unit, steps)
    b = _look_up_root(table, b, per_unit, steps)
    luma = (r - g) * 0.2627 + (b - g) * 0.0593 + g
    return luma, b - luma, r - luma


@triton.jit
def _halve(even: tl.tensor, after: tl.tensor, before: tl.tensor) -> tl.tensor:
    return ((before - even) + (after - even)) * 0.25 + even


@triton.jit
def _halve_across(signal: tl.tensor, before: tl.tensor, columns: tl.tensor, BLOCK: tl.constexpr) -> tl.tensor:
    """(2 * BLOCK,) -> (BLOCK,); before: the signal one place left of each even one."""
    even, odd = tl.split(tl.reshape(signal, (BLOCK, 2)))
    return _halve(even, odd, tl.where(columns == 0, even, before))


@triton.jit
def _pack_row(
    frame: tl.tensor, row: tl.tensor, columns: tl.tensor, wide: tl.tensor, height: int, width: int,
    stride_c: int, stride_h: int, stride_w: int, table: tl.tensor, ootf_table: tl.tensor,
    extreme: float, white_nits: float, peak_nits: float, per_unit: float, steps: float,
    ootf_per_unit: float, ootf_steps: float, hlg_peak_nits: float, tiny: float,
    rg: float, rb: float, gr: float, gb: float, br: float, bg: float, HLG: tl.constexpr, BLOCK: tl.constexpr,
) -> tuple:  # fmt: skip
    """One row -> luma of 2 * BLOCK pixels and both colour differences of BLOCK, halved across. Edges are repeated."""
    line = frame + tl.minimum(row, height - 1).to(tl.int64) * stride_h
    luma, blue, red = _hdr_signals(
        line, tl.minimum(wide, width - 1), stride_c, stride_w, table, ootf_table, extreme, white_nits, peak_nits,
        per_unit, steps, ootf_per_unit, ootf_steps, hlg_peak_nits, tiny, rg, rb, gr, gb, br, bg, HLG
    )  # fmt: skip
    left = tl.minimum(tl.maximum(2 * columns - 1, 0), width - 1)
    _, blue_left, red_left = _hdr_signals(
        line, left, stride_c, stride_w, table, ootf_table, extreme, white_nits, peak_nits,
        per_unit, steps, ootf_per_unit, ootf_steps, hlg_peak_nits, tiny, rg, rb, gr, gb, br, bg, HLG
    )  # fmt: skip
    return luma, _halve_across(blue, blue_left, columns, BLOCK), _halve_across(red, red_left, columns, BLOCK)


@triton.jit
def _dither_move(frame_number: tl.tensor, PLANE: tl.constexpr) -> tuple:
    """Rows and columns that the noise tile is moved by: dither.hash64, modulo 2**64."""
    number = frame_number * 3 + PLANE + 0x9E3779B97F4A7C15
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB
    number = number ^ (number >> 31)
    return (number & 63).to(tl.int32), ((number >> 6) & 63).to(tl.int32)


@triton.jit
def _store_codes(
    plane: tl.tensor, codes: tl.tensor, row: tl.tensor, columns: tl.tensor, width: int, mask: tl.tensor,
    noise: tl.tensor, top: tl.tensor, left: tl.tensor,
) -> None:  # fmt: skip
    dither = tl.load(noise + ((row + top) & 63) * 64 + ((columns + left) & 63))
    # Codes are positive, so cutting off the fraction is dither.round_'s floor.
    codes = tl.minimum(tl.maximum(codes + dither, 4.0), 1019.0)
    tl.store(plane + row * width + columns, codes.to(tl.int32).to(tl.uint16), mask=mask)


@triton.jit
def pack_kernel(
    linear: tl.tensor, y: tl.tensor, u: tl.tensor, v: tl.tensor, frame_numbers: tl.tensor, noise: tl.tensor,
    table: tl.tensor, ootf_table: tl.tensor, height: int, width: int,
    stride_n: int, stride_c: int, stride_h: int, stride_w: int,
    extreme: float, white_nits: float, peak_nits: float, per_unit: float, steps: float,
    ootf_per_unit: float, ootf_steps: float, hlg_peak_nits: float, tiny: float,
    rg: float, rb: float, gr: float, gb: float, br: float, bg: float, blue_scale: float, red_scale: float,
    HLG: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """ROWS by BLOCK chroma samples and their luma: working space -> dithered 10-bit 4:2:0, top-left chroma.

    Walks down the rows and keeps the last odd row's colour differences, which the next chroma row needs. The column left of each
    pair is computed again. Program axes: blocks of columns, of rows, frames.
    """
    number = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.program_id(0) * (2 * BLOCK) + tl.arange(0, 2 * BLOCK)
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    frame = linear + number * stride_n
    y_plane = y + number * 4 * half_height * half_width
    u_plane = u + number * half_height * half_width
    v_plane = v + number * half_height * half_width
    frame_number = tl.load(frame_numbers + number).to(tl.uint64)
    y_top, y_left = _dither_move(frame_number, 0)
    u_top, u_left = _dither_move(frame_number, 1)
    v_top, v_left = _dither_move(frame_number, 2)
    first = tl.program_id(1) * ROWS
    _, blue_above, red_above = _pack_row(
        frame, tl.maximum(2 * first - 1, 0), columns, wide, height, width, stride_c, stride_h, stride_w, table,
        ootf_table, extreme, white_nits, peak_nits, per_unit, steps, ootf_per_unit, ootf_steps, hlg_peak_nits, tiny,
        rg, rb, gr, gb, br, bg, HLG, BLOCK
    )  # fmt: skip
    for step in range(ROWS):
        row = first + step
        luma, blue_even, red_even = _pack_row(
            frame, 2 * row, columns, wide, height, width, stride_c, stride_h, stride_w, table,
            ootf_table, extreme, white_nits, peak_nits, per_unit, steps, ootf_per_unit, ootf_steps, hlg_peak_nits, tiny,
            rg, rb, gr, gb, br, bg, HLG, BLOCK
        )  # fmt: skip
        width_here = tl.where(row < half_height, half_width, 0)
        luma_mask = wide < 2 * width_here
        _store_codes(y_plane, luma * 876.0 + 64.0, 2 * row, wide, 2 * half_width, luma_mask, noise, y_top, y_left)
        luma, blue_odd, red_odd = _pack_row(
            frame, 2 * row + 1, columns, wide, height, width, stride_c, stride_h, stride_w, table,
            ootf_table, extreme, white_nits, peak_nits, per_unit, steps, ootf_per_unit, ootf_steps, hlg_peak_nits, tiny,
            rg, rb, gr, gb, br, bg, HLG, BLOCK
        )  # fmt: skip
        _store_codes(y_plane, luma * 876.0 + 64.0, 2 * row + 1, wide, 2 * half_width, luma_mask, noise, y_top, y_left)
        blue = _halve(blue_even, blue_odd, tl.where(row == 0, blue_even, blue_above)) * blue_scale + 512.0
        red = _halve(red_even, red_odd, tl.where(row == 0, red_even, red_above)) * red_scale + 512.0
        mask = columns < width_here
        _store_codes(u_plane, blue, row, columns, half_width, mask, noise, u_top, u_left)
        _store_codes(v_plane, red, row, columns, half_width, mask, noise, v_top, v_left)
        blue_above, red_above = blue_odd, red_odd


@triton.jit
def light_kernel(
    y: tl.tensor, u: tl.tensor, v: tl.tensor, histogram: tl.tensor, pq_table: tl.tensor, oetf_table: tl.tensor,
    ootf_table: tl.tensor, height: int, width: int, luma_scale: float,
    red_scale: float, blue_scale: float, green_u: float, green_v: float,
    pq_per_unit: float, pq_steps: float, oetf_per_unit: float, oetf_steps: float, ootf_per_unit: float,
    ootf_steps: float, tiny: float, LEVELS: tl.constexpr, HLG: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """A run of BLOCK pixels of one row of packed planes: counts the levels of max(R', G', B'), as light.measure does.

    histogram: (N, LEVELS + 1) int32, zeroed. The lowest level of a run is counted at once, so that flat pictures do not wait for one
    address. Program axes: runs of a row, rows, frames.
    """
    row = tl.program_id(1)
    frame = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < width
    half_height, half_width = height // 2, width // 2
    start = frame * half_height * half_width
    luma = (tl.load(y + 4 * start + row * width + columns, mask=mask, other=0).to(tl.float32) - 64.0) * luma_scale
    blue = _chroma(u + start, row, columns, mask, half_height, half_width, half_width, 1, 512.0, 2, 2, 0, 0)
    red = _chroma(v + start, row, columns, mask, half_height, half_width, half_width, 1, 512.0, 2, 2, 0, 0)
    r, g, b = _signals(luma, blue, red, red_scale, blue_scale, green_u, green_v)
    if HLG:
        r = _look_up(oetf_table, r, oetf_per_unit, oetf_steps)
        g = _look_up(oetf_table, g, oetf_per_unit, oetf_steps)
        b = _look_up(oetf_table, b, oetf_per_unit, oetf_steps)
        luminance = _luminance(r, g, b)
        gain = tl.div_rn(_look_up_root(ootf_table, luminance, ootf_per_unit, ootf_steps), luminance + tiny)
        brightest = tl.maximum(tl.maximum(r * gain, g * gain), b * gain)
        signal = _look_up_root(pq_table, brightest, pq_per_unit, pq_steps)
    else:
        signal = tl.maximum(tl.maximum(r, g), b)
    # Adding and taking away 1.5 * 2**23 rounds to whole numbers, halves to even, as torch.round does.
    whole = (signal * LEVELS + 12582912.0) - 12582912.0
    level = tl.minimum(tl.maximum(whole, 0.0), LEVELS).to(tl.int32)
    lowest = tl.min(tl.where(mask, level, LEVELS), axis=0)
    same = mask & (level == lowest)
    counts = histogram + frame * (LEVELS + 1)
    tl.atomic_add(counts + lowest, tl.sum(same.to(tl.int32), axis=0), sem="relaxed")
    tl.atomic_add(counts + level, tl.full((BLOCK,), 1, tl.int32), mask=mask & (level != lowest), sem="relaxed")
