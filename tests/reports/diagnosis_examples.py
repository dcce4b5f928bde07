"""Reports of diagnoses to test with: a full one, and Hypothesis strategies for hostile ones."""

from __future__ import annotations

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

from gatewright.reports.diagnosis_contents import Charts, DiagnosisReport, Evidence, Finding, Remedy, Trial

NAN = float("nan")
LAGS = np.array([1, 2, 4, 8, 16, 32, 64])
STEPS = np.arange(0, 500, 100)


def curves(last: float) -> np.ndarray:
    seeds = np.arange(3)[:, None]
    return last + (0.7 - last) * np.exp(-STEPS / 200) + 0.01 * seeds


def full_charts() -> Charts:
    lags = np.arange(80)
    return Charts(
        gradient_by_lag={"rnn (layer 1)": np.exp(-lags / 6) * (lags < 60), "rnn (layer 2)": 0.5**lags},
        time_constants={"rnn (layer 1)": np.array([2.0, 5.0, 9.0, np.inf]), "rnn (layer 2)": np.ones(4)},
        lyapunov={"rnn (layer 1)": np.array([-0.1, -0.2, -np.inf]), "rnn (layer 2)": np.array([0.1, 0.0])},
        memory_lags=LAGS,
        memory={"rnn (layer 1)": np.exp(-LAGS / 8), "rnn (layer 2)": np.exp(-LAGS / 4) - 0.1},
        unused_lags=np.arange(1, 81),
        unused=np.where(np.arange(1, 81) == 50, 0.6, 0.01),
        needed_lag=50,
        needed_source="the lag that explains most of the rest error",
        learning_rates=10.0 ** np.arange(-5, 1),
        learning_rate_losses=np.array([0.99, 0.95, 0.8, 0.6, 1.5, NAN]),
        learning_rate=1e-3,
        losses=np.linspace(0.7, 0.6, 30),
        gradient_norms=np.append(np.geomspace(0.01, 10, 29), np.inf),
        baseline_curves=curves(0.68),
        baseline_steps=STEPS,
    )


def full_report() -> DiagnosisReport:
    bias = Remedy(
        "forget bias", "Start the forget bias at 4.", "LSTM(8, 64, forget_bias=4)", "It learns.", "T&O"
    )
    skip = Remedy("skip connections", "Add the state of 16 steps ago.")
    evidence = [
        Evidence("reach", "The gradient falls to a hundredth within 28 steps.", 28, 50, "needed lag"),
        Evidence("at_needed", "At lag 50 little of the gradient is left.", 2.4e-4, 1e-1, "convention"),
        Evidence("norm", "The whole gradient is not small.", 0.5, 1e-6, supports=False),
        Evidence("cell", "The forget gates start at 0.5."),
    ]
    causes = [
        Finding("vanishing", "rnn (layer 1)", "The gradient fades too early.", evidence, 0.92, [bias, skip]),
        Finding("learning rate", "", "It is too low.", [Evidence("ratio", "Best over used.", 10, 3)], 0.5),
    ]
    good, bad = curves(0.05), curves(0.8)
    tried = [
        Trial("forget bias", "It starts at 4.", "helped", 0.05, 0.68, -0.92, -0.96, -0.88, good, STEPS),
        Trial("skip connections", "Over 16 steps.", "worse", 0.8, 0.68, 0.18, 0.05, 0.3, bad, STEPS),
        Trial("no clipping", "Not clipped.", "failed", note="The loss was not finite."),
    ]
    return DiagnosisReport(
        title="Why the net does not learn",
        verdict="The gradient does not reach back 50 steps.",
        good=False,
        findings=causes,
        measures={"reach": 28, "at_needed": 2.4e-4, "saturation": NAN, "longest": np.inf},
        measure_texts={"reach": "Steps within which the gradient falls to a hundredth."},
        trials=tried,
        charts=full_charts(),
        facts={"model": "LSTM, 2 layers", "seed": "0"},
        notes=["Saturation could not be measured."],
        command="gatewright.diagnose(model, batches)",
    )


# drawing is slow: to shrink a failing report would take minutes
few = settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))

HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}{% raw %}\ud800 $x^2$ \x1b[31m\n#"

words = st.one_of(
    st.sampled_from([HOSTILE, "", "layer", "</title></svg>", "{{ report }}", "https", "url(#a)", "a" * 300]),
    st.text(st.characters(), max_size=20),
)
numbers = st.one_of(
    st.floats(),
    st.sampled_from([NAN, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1.7e308, -1.7e308, 1e-3, 1.0, 999.9, 1e6]),
)
arrays = st.lists(numbers, max_size=6).map(lambda values: np.array(values, float))
matrices = st.builds(
    lambda rows, columns, value: np.full((rows, columns), value),
    st.integers(0, 3),
    st.integers(0, 4),
    numbers,
)
layers = st.dictionaries(words, arrays, max_size=3)
needed = st.sampled_from([0, 1, 7, 200, 10**9])
remedies = st.lists(st.builds(Remedy, words, words, words, words, words), max_size=2)
evidence = st.lists(st.builds(Evidence, words, words, numbers, numbers, words, st.booleans()), max_size=3)
findings = st.lists(st.builds(Finding, words, words, words, evidence, numbers, remedies), max_size=7)
judgements = st.sampled_from(["helped", "harmless", "worse", "failed", "not run"])
trials = st.lists(
    st.builds(
        Trial, words, words, judgements, numbers, numbers, numbers, numbers, numbers, matrices, arrays, words
    ),
    max_size=4,
)
charts = st.builds(
    Charts, layers, layers, layers, arrays, layers, arrays, arrays, needed, words, arrays, arrays, numbers,
    arrays, arrays, matrices, arrays,
)  # fmt: skip
reports = st.builds(
    DiagnosisReport, words, words, st.booleans(), findings, st.dictionaries(words, numbers, max_size=3),
    st.dictionaries(words, words, max_size=3), trials, charts, st.dictionaries(words, words, max_size=3),
    st.lists(words, max_size=6), words,
)  # fmt: skip
