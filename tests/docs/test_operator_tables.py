"""The tables of Mamba's operators say what their file says."""

import operator_tables

from tests.docs.test_tables import rows_of

MACHINE = {"cpu": "Some CPU", "threads": 2, "torch": "2.13.0", "load_one_minute": 0.4}


def timing(what, code, states, best, ratio, length=256):
    return {
        "what": what,
        "code": code,
        "states": states,
        "length": length,
        "best_milliseconds": best,
        "median_milliseconds": best + 1,
        "times_ours": ratio,
    }


RESULTS = {
    "machine": MACHINE,
    "packages": {"mambapy": "1.2.0", "transformers": "5.24.0"},
    "rounds": 6,
    "model": {"batch": 8, "length": 256, "width": 128, "depth": 2, "short": 32},
    "timings": [
        timing("scan", "compressm", 16, 5.0, 1.0),
        timing("scan", "plain PyTorch", 16, 60.0, 12.0),
        timing("model step", "compressm", 128, 100.0, 1.0),
        timing("model step", "mambapy", 128, 4000.0, 40.0),
        timing("model step", "transformers", 128, 2500.0, 200.0, length=32),
    ],
    "source": "Source: `somewhere`.",
}


def test_speeds_are_those_of_the_file_and_the_chosen_operator_is_bold():
    times = {"forward_backward": (3.14, 4.0), "model_step": (5.0, 6.0)}
    row = {"setting": "sMNIST", "states": 28}
    for name, (best, median) in times.items():
        row |= {f"{name}_best_milliseconds": best, f"{name}_median_milliseconds": median}
    _, _, *rows = rows_of(
        operator_tables.lru(
            {
                "machine": MACHINE,
                "rounds": 15,
                "models": [{"name": "sMNIST", "batch": 50, "length": 784, "width": 8, "depth": 1}],
                "timings": [
                    {**row, "backend": "chunk", "chunk": 8, "chosen": True},
                    {**row, "backend": "fft", "chunk": 1, "chosen": False},
                ],
                "source": "",
            }
        )
    )
    assert rows == [
        ["sMNIST", "28", "**chunk, T=8**", "**3.1 (4.0)**", "**5.0 (6.0)**"],
        ["sMNIST", "28", "fft", "3.1 (4.0)", "5.0 (6.0)"],
    ]


def test_scans_stand_beside_plain_pytorch():
    text = operator_tables.mamba_scan(RESULTS)
    _, _, row = rows_of(text)
    assert row == ["16", "5.0 (6.0)", "60.0 (61.0)", "12.0"]
    assert "load 0.4 at the start" in text
    assert "256 channels" in text


def test_a_step_measured_at_a_shorter_length_is_scaled_and_says_so():
    text = operator_tables.mamba_step(RESULTS)
    _, _, ours, theirs, loop = rows_of(text)
    assert ours == ["128", "`accelerate_cpu`", "100.0 (101.0)", "1.0"]
    assert theirs[1:] == ["mambapy 1.2.0", "4000.0 (4001.0)", "40.0"]
    assert loop[2:] == ["20000 *", "200.0"]
    assert "Measured at L=32" in text
    whole = {**RESULTS, "timings": RESULTS["timings"][:4]}
    assert "Measured at" not in operator_tables.mamba_step(whole)


def test_kinds_of_work_stand_in_one_row_for_each_number_of_states():
    kinds = {"scan": 4.0, "products": 11.26, "rest": 1.0}
    profiles = [{"states": 16, "operators_milliseconds": 16.26, "work_milliseconds": kinds}]
    text = operator_tables.mamba_profile({**RESULTS, "profiles": profiles})
    header, _, row = rows_of(text)
    assert header == ["N", "all", "scan", "products", "rest"]
    assert row == ["16", "16.3", "4.0", "11.3", "1.0"]
    assert "Source: `somewhere`." in text
