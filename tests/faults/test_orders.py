"""Any order of training, cutting, failing, saving, loading, copying, wrapping and freezing."""

import copy
import io

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from compressm import Compressor, Guard, Schedule
from compressm.nn import SequenceClassifier, state_dims
from compressm.policies import Policy
from tests.faults.fingerprint import differences, fingerprint, outcome
from tests.faults.inject import FULL as EVERY_FAULT
from tests.faults.inject import InjectedError

FULL, DEPTH, EVERY = 7, 2, 100
VERDICTS = ("keeps", "refuses", "fails")


class Given(Policy):
    """Ranks that somebody else has chosen; never more states than there are."""

    ranks: tuple[int, ...] = ()

    def validate(self):
        """Whatever it is told is right."""

    def targets(self, spectra):
        pairs = zip(spectra.items(), Given.ranks, strict=True)
        return {site: min(rank, spectrum.state_dim) for (site, spectrum), rank in pairs}


class Run:
    """Model, two optimizers, compressor; a cut is due when the count is sent to the next one."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = SequenceClassifier(
            input="real", features=1, width=4, state_dim=FULL, depth=DEPTH, classes=3, norm="layer"
        )
        layers = [p for block in self.model.encoder.blocks for p in block.layer.parameters()]
        inside = set(map(id, layers))
        others = [p for p in self.model.parameters() if id(p) not in inside]
        self.optimizers = [
            torch.optim.AdamW(layers, lr=1e-2),
            torch.optim.SGD(others, lr=1e-2, momentum=0.9, weight_decay=0.1),
        ]
        self.verdict = "keeps"
        self.compressor = Compressor(
            self.model,
            self.optimizers,
            policy=Given(gate=1.0),
            schedule=Schedule.at(*range(EVERY, 50 * EVERY, EVERY)),
            guard=Guard(self.metric, max_drop=0.5, max_attempts=1),
            method="real-pairs",
        )
        self.cuts = 0

    @property
    def parts(self):
        return [self.model, *self.optimizers, self.compressor]

    @property
    def states(self):
        return tuple(state_dims(self.model).values())

    def metric(self):
        if self.states == self.before:
            return 1.0
        if self.verdict == "fails":
            raise InjectedError("metric")
        return 1.0 if self.verdict == "keeps" else 0.0

    before = (FULL,) * DEPTH

    def train(self):
        inputs, labels = torch.randn(6, 9, 1), torch.randint(3, (6,))
        self.model.train()
        loss = cross_entropy(self.model(inputs), labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.compressor.step()
        return float(loss.detach())

    def cut(self, ranks, verdict):
        Given.ranks, self.verdict, self.before = ranks, verdict, self.states
        self.cuts += 1
        return self.compressor.step(self.cuts * EVERY)

    def saved(self):
        """The state of all parts, through a file."""
        file = io.BytesIO()
        torch.save([part.state_dict() for part in self.parts], file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    def load(self, states):
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)

    def looked_at(self):
        """The output on an input that is always the same."""
        self.model.eval()
        with torch.no_grad():
            return self.model(torch.linspace(-1, 1, 18).view(2, 9, 1))


class Orders(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.run = Run()

    @rule()
    def train(self):
        run = self.run
        before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
        loss = run.train()
        assert loss == pytest.approx(loss)
        assert abs(loss) < 1e3
        for name, p in run.model.named_parameters():
            assert torch.equal(p, before[name]) != p.requires_grad, name

    @rule(ranks=st.tuples(*[st.integers(1, FULL)] * DEPTH), verdict=st.sampled_from(VERDICTS))
    def cut(self, ranks, verdict):
        run = self.run
        smaller = tuple(map(min, ranks, run.states))
        if verdict == "fails" and smaller != run.states:
            before = fingerprint({"model": run.model, "optimizers": run.optimizers})
            with pytest.raises(InjectedError):
                run.cut(ranks, verdict)
            after = fingerprint({"model": run.model, "optimizers": run.optimizers})
            assert not differences(before, after)
            run.cuts -= 1
            run.cut(run.states, "keeps")  # what was due is due still
            return
        expected = run.states if verdict == "refuses" else smaller
        event = run.cut(ranks, verdict)
        assert run.states == expected, event

    @rule()
    def load_into_itself(self):
        run = self.run
        output, states = run.looked_at(), run.saved()
        run.load(states)
        assert torch.equal(run.looked_at(), output)
        assert outcome(run.saved()) == outcome(states)

    @rule()
    def load_into_a_run_as_it_was_built(self):
        run, fresh = self.run, Run()
        fresh.load(run.saved())
        fresh.cuts = run.cuts
        for old, new in zip(run.model.parameters(), fresh.model.parameters(), strict=True):
            new.requires_grad_(old.requires_grad)
            new.grad = None if old.grad is None else old.grad.clone()
        assert torch.equal(fresh.looked_at(), run.looked_at())
        losses = []
        for one in (run, fresh):  # the uninterrupted run and the resumed one
            torch.manual_seed(3)
            losses.append([one.train() for _ in range(2)])
        assert losses[0] == losses[1]
        assert outcome(fresh.saved()) == outcome(run.saved())
        self.run = fresh

    @rule(how=st.sampled_from(["deepcopy", "pickle", "average", "data parallel"]))
    def wrap(self, how):
        run = self.run
        output = run.looked_at()
        model = run.model
        if how == "deepcopy":
            other = copy.deepcopy(model)
        elif how == "pickle":
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            other = torch.load(file, weights_only=False)
        else:
            other = AveragedModel(model) if how == "average" else nn.DataParallel(model)
        with torch.no_grad():
            assert torch.equal(other.eval()(torch.linspace(-1, 1, 18).view(2, 9, 1)), output)
        bare = other if how in ("deepcopy", "pickle") else other.module
        assert tuple(state_dims(bare).values()) == run.states

    @rule(none=st.booleans())
    def zero_grad(self, none):
        for optimizer in self.run.optimizers:
            optimizer.zero_grad(set_to_none=none)

    @rule(lr=st.sampled_from([1e-3, 3e-3, 1e-2]))
    def change_of_lr(self, lr):
        for optimizer in self.run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    @rule(layer=st.integers(0, DEPTH - 1), trainable=st.booleans())
    def freeze(self, layer, trainable):
        for p in self.run.model.encoder.blocks[layer].layer.parameters():
            p.requires_grad_(trainable)
            p.grad = None

    @invariant()
    def sizes_agree(self):
        if not hasattr(self, "run"):
            return
        for block in self.run.model.encoder.blocks:
            layer = block.layer
            assert len(layer.nu_log) == len(layer.B_re) == layer.C_re.shape[1] == layer.state_dim

    @invariant()
    def every_parameter_is_trained_by_one(self):
        if not hasattr(self, "run"):
            return
        held = [p for o in self.run.optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(map(id, held)) == sorted(map(id, self.run.model.parameters()))
        for optimizer in self.run.optimizers:
            for p, state in optimizer.state.items():
                tensors = (v for v in state.values() if isinstance(v, torch.Tensor))
                assert all(v.shape in (p.shape, ()) for v in tensors)


@pytest.mark.timeout(7200 if EVERY_FAULT else 300)
class TestOrders(Orders.TestCase):
    pass


TestOrders.settings = settings(
    max_examples=200 if EVERY_FAULT else 6,
    # Shrinking takes minutes, and the orders are short.
    phases=tuple(Phase) if EVERY_FAULT else (Phase.generate,),
    stateful_step_count=20 if EVERY_FAULT else 12,
    suppress_health_check=list(HealthCheck),
)


def test_a_cut_that_fails_after_a_load_leaves_the_groups_in_their_order():
    """Loading puts the parameters of a group behind its options."""
    run = Run()
    run.load(run.saved())
    before = [list(group) for o in run.optimizers for group in o.param_groups]
    assert before[0][-1] == "params"
    with pytest.raises(InjectedError):
        run.cut((3, 3), "fails")
    assert [list(group) for o in run.optimizers for group in o.param_groups] == before


@pytest.mark.filterwarnings("ignore:.*Function'> should not be:DeprecationWarning")
def test_a_compiled_model_is_what_it_compiles():
    """In eager mode, through cuts, a refused one among them, and a load."""
    run = Run()
    compiled = torch.compile(run.model, backend="eager")
    for ranks, verdict in (((5, 7), "keeps"), ((2, 2), "refuses")):
        run.train()
        run.cut(ranks, verdict)
        run.load(run.saved())
        output = run.looked_at()
        with torch.no_grad():
            assert torch.equal(compiled(torch.linspace(-1, 1, 18).view(2, 9, 1)), output)
