"""NWB files in the layout of the Neural Latents Benchmark's, with known spikes and behaviour.

They have the layout of DANDI 000128 (MC_Maze), 000129 (MC_RTT), 000127 (Area2_Bump) and 000130
(DMFC_RSG): a table of units with `heldout` and `obs_intervals`, a table of trials with `split`, and
time series of behaviour at 1 kHz in a processing module, which have gaps if `gaps` is true. Trials
begin at arbitrary milliseconds.
"""

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

N_HELDIN, N_HELDOUT = 5, 3


@dataclass
class Recording:
    """The content of a file.

    Attributes
    ----------
    path
        The file.
    spike_times
        The spike times of each unit, in s; held-in units first.
    trials
        A table of trials with times in s.
    end
        The end of the recording, in s.
    behavior
        By name, a function of the time in s.
    """

    path: Path
    spike_times: list
    trials: pd.DataFrame
    end: float
    behavior: dict = field(default_factory=dict)

    def counts(self, start, n_bins, bin_width):
        """Count the spikes of every unit, (n_bins, units), from a time in s that is a whole bin."""
        first = round(start / bin_width)
        edges = np.arange(first, first + n_bins + 1) - 0.5  # Edges between whole numbers.
        bins = [np.floor(times / bin_width + 1e-7) for times in self.spike_times]
        return np.stack([np.histogram(b, edges)[0] for b in bins], axis=1)


def velocity(seed, n_channels=2):
    """Return a slow function of time, which survives downsampling unchanged."""
    rng = np.random.default_rng(seed)
    frequency = rng.uniform(0.3, 1.2, (n_channels, 3))
    phase = rng.uniform(0, 6, (n_channels, 3))

    def at(t):
        angles = 2 * np.pi * frequency * np.asarray(t)[..., None, None] + phase
        return np.sin(angles).sum(axis=-1)

    return at


def trials_of(dataset, part, n_trials, rng):
    """Return a table of trials, in the columns that the benchmark's files have."""
    splits = {"train": ["train", "train", "val"], "test": ["test"]}[part]
    table = pd.DataFrame({"split": [splits[i % len(splits)] for i in range(n_trials)]})
    if dataset == "mc_rtt":  # Trials of 600 ms without pauses.
        table["start_time"] = 0.6 * np.arange(n_trials) + 0.4
        table["stop_time"] = table.start_time + 0.6
        return table
    long = 3.0 if dataset == "dmfc_rsg" else 1.6
    start = 0.35 + long * np.arange(n_trials) + rng.integers(0, 60, n_trials) / 1000
    table["start_time"] = start.round(3)
    table["stop_time"] = (start + long - 0.1).round(3)
    condition = (np.arange(n_trials) // 2) % 3
    if dataset == "dmfc_rsg":
        go = table.start_time + 2.2 + rng.integers(0, 200, n_trials) / 1000
        table["tp"] = rng.integers(900, 1100, n_trials).astype(float)
        table["go_time"] = go.round(3)
        table["set_time"] = (table.go_time - table.tp / 1000).round(3)
        table["ts"] = 800.0
        table["is_eye"] = condition % 2
        table["theta"] = 0.0
        table["is_short"] = 0
        table["is_outlier"] = (np.arange(n_trials) == 4).astype(int)
        return table
    onset = table.start_time + 0.5 + rng.integers(0, 200, n_trials) / 1000
    table["move_onset_time"] = onset.round(3)
    if dataset == "area2_bump":
        table["cond_dir"] = 90.0 * condition
        table["ctr_hold_bump"] = (np.arange(n_trials) // 3) % 2
    else:
        table["trial_type"] = condition
        table["trial_version"] = 0
        table["target_on_time"] = table.start_time + 0.1
    return table


def write_nwb(folder, dataset="mc_maze", part="train", n_trials=12, gaps=True, seed=0):
    """Write a file and return its content."""
    rng = np.random.default_rng([seed, part == "test"])
    trials = trials_of(dataset, part, n_trials, rng)
    end = float(trials.stop_time.iloc[-1] + 0.9)
    n_units = N_HELDIN + (N_HELDOUT if part == "train" else 0)
    spike_times = [
        np.unique(rng.uniform(0, end - 0.01, rng.poisson(40 * end)).round(4))
        for _ in range(n_units)
    ]
    nwb = NWBFile(
        session_description=f"{dataset} {part}", identifier=f"{dataset}{part}{seed}",
        session_start_time=datetime(2000, 1, 1, tzinfo=timezone.utc),
    )  # fmt: skip
    nwb.add_unit_column("heldout", "held out")
    for i, times in enumerate(spike_times):
        nwb.add_unit(
            spike_times=times, heldout=i >= N_HELDIN, obs_intervals=np.array([[0.0, end]]), id=i
        )
    for name in trials.columns.drop(["start_time", "stop_time"]):
        nwb.add_trial_column(name, name)
    for row in trials.to_dict("records"):
        nwb.add_trial(**row)
    behavior = {}
    if part == "train" and dataset != "dmfc_rsg":
        module = nwb.create_processing_module("behavior", "kinematics")
        main = "finger_vel" if dataset == "mc_rtt" else "hand_vel"
        behavior = {main: velocity(seed + 1), "hand_pos": velocity(seed + 2)}
        t = np.arange(round(end * 1000)) / 1000
        for name, at in behavior.items():
            kept = np.ones(len(t), dtype=bool)
            if gaps:  # Before the first trial and between trials.
                kept[:100] = False
                if dataset != "mc_rtt":
                    kept[(t > trials.stop_time[3] + 0.02) & (t < trials.start_time[4] - 0.02)] = (
                        False
                    )
            if name != main:  # Missing within a trial, in a series that is not decoded.
                kept[round(1000 * (trials.start_time[1] + 0.6)) :][:50] = False
            module.add(
                TimeSeries(
                    name=name,
                    data=at(t[kept]),
                    timestamps=t[kept],
                    unit="mm/s",
                    comments="columns=[x,y]",
                )
            )
    folder.mkdir(parents=True, exist_ok=True)
    description = "behavior+ecephys" if behavior else "ecephys"
    path = folder / f"sub-Test_desc-{part}_{description}.nwb"
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return Recording(path, spike_times, trials, end, behavior)
