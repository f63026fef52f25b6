"""Cells, encoder and decoder in plain NumPy, one trial after the other and one bin at a time."""

import numpy as np
import torch


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module, prefix=""):
    """Return the state of a module, or of its part with a prefix, as arrays."""
    state = module.state_dict().items()
    return {k.removeprefix(prefix): v.numpy().copy() for k, v in state if k.startswith(prefix)}


def below(params, prefix):
    return {k.removeprefix(prefix): v for k, v in params.items() if k.startswith(prefix)}


def randomize_(module, seed=0, scale=0.7):
    """Draw every parameter, including those that start at zero, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * draw)
    return module


def gru_step(params, x, h, clip):
    """Advance one trial's state h (H) with the input x (D)."""
    w_z, w_r, w_n = np.split(params["weight_ih"], 3)
    u_z, u_r, u_n = np.split(params["weight_hh"], 3)
    b_z, b_r, b_n = np.split(params["bias_ih"], 3)
    d_z, d_r, d_n = np.split(params["bias_hh"], 3)
    z = sigmoid(w_z @ x + b_z + u_z @ h + d_z)
    r = sigmoid(w_r @ x + b_r + u_r @ h + d_r)
    n = np.tanh(w_n @ x + b_n + u_n @ (r * h) + d_n)
    return np.clip(z * h + (1 - z) * n, -clip, clip)


def encode_trial(params, data, *, t_rec, t_ic, lag, var_min, clip, use_con):
    """Return the IC's mean and std, and the controller inputs (t_rec, 2 ci_enc_dim)."""
    t_enc = len(data)

    def states(name, bins):
        """Return the state after each bin, by direction."""
        by_direction = []
        for i, (direction, order) in enumerate([("fwd", bins), ("bwd", bins[::-1])]):
            cell = below(params, f"{name}.{direction}_gru.cell.")
            state, after = params[f"{name}_h0"][i, 0], {}
            for t in order:
                state = after[t] = gru_step(cell, data[t], state, clip)
            by_direction.append(after)
        return by_direction

    bins = list(range(t_ic)) if t_ic else list(range(t_enc))
    fwd, bwd = states("ic_enc", bins)
    final = np.concatenate([fwd[bins[-1]], bwd[bins[0]]])
    out = params["ic_linear.weight"] @ final + params["ic_linear.bias"]
    mean, logvar = np.split(out, 2)
    std = np.sqrt(np.exp(logvar) + var_min)
    if not use_con:
        return mean, std, np.zeros((t_rec, 0))

    fwd, bwd = states("ci_enc", list(range(t_ic, t_enc)))
    nothing = np.zeros(params["ci_enc_h0"].shape[2])
    ci = np.zeros((t_rec, 2 * len(nothing)))
    for t in range(t_ic, t_enc):
        ci[t] = np.concatenate([fwd.get(t - lag, nothing), bwd.get(t + lag, nothing)])
    return mean, std, ci


def decode_trial(params, ic, ci, ext, clip, use_con):
    """Return the outputs of the decoder by name; the controller output is its mean."""
    rows = params["rnn.cell.fac_linear.weight"]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    gen_init = g = params["ic_to_g0.weight"] @ ic + params["ic_to_g0.bias"]
    c, f = params["con_h0"][0], rows @ g
    out = {name: [] for name in ("gen_states", "con_states", "co_means", "co_stds")}
    out |= {"gen_inputs": [], "factors": []}
    for ci_t, ext_t in zip(ci, ext, strict=True):
        mean = logvar = np.zeros(0)
        if use_con:
            c = gru_step(below(params, "rnn.cell.con_cell."), np.concatenate([ci_t, f]), c, clip)
            co = params["rnn.cell.co_linear.weight"] @ c + params["rnn.cell.co_linear.bias"]
            mean, logvar = np.split(co, 2)
        gen_input = np.concatenate([mean, ext_t])
        g = gru_step(below(params, "rnn.cell.gen_cell."), gen_input, g, clip)
        f = rows @ g
        values = (g, c, mean, np.exp(logvar / 2), gen_input, f)
        for series, value in zip(out.values(), values, strict=True):
            series.append(value)
    return {"gen_init": gen_init} | {name: np.stack(series) for name, series in out.items()}


def make_transparent_(cell):
    """Let a recurrent cell forget its state and return its input x as h' = tanh(x), with H = D."""
    size = cell.hidden_size
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.weight_ih[2 * size :] = torch.eye(size)
        cell.bias_ih[:size] = -1000.0
