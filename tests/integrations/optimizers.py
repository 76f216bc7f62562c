"""Optimizers like those of third parties: one inside another, one that keeps copies of weights."""

import torch


class Lookahead(torch.optim.Optimizer):
    """Steps the optimizer inside it, and every second time goes half way back to slow weights."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.param_groups = inner.param_groups
        self.count = 0

    @torch.no_grad()
    def step(self, closure=None):
        loss = self.inner.step(closure)
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                slow = self.state[p].setdefault("slow", p.detach().clone())
                if self.count % 2 == 0:
                    slow.lerp_(p, 0.5)
                    p.copy_(slow)
        return loss

    def state_dict(self):
        own = [dict(self.state[p]) for group in self.param_groups for p in group["params"]]
        return {"inner": self.inner.state_dict(), "own": own, "count": self.count}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])
        self.param_groups = self.inner.param_groups
        parameters = [p for group in self.param_groups for p in group["params"]]
        for p, own in zip(parameters, state["own"], strict=True):
            self.state[p] = {key: value.clone() for key, value in own.items()}
        self.count = state["count"]


class ScheduleFree(torch.optim.Optimizer):
    """SGD whose parameters are between a sequence z and its running average."""

    def __init__(self, params, lr=1e-2, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["k"] += 1
            weight = 1 / group["k"]
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                average = (p - (1 - group["beta"]) * z) / group["beta"]
                z.sub_(p.grad, alpha=group["lr"])
                p.copy_(torch.lerp(average.lerp(z, weight), z, 1 - group["beta"]))
        return loss


MAKERS = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "momentum": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "lookahead": lambda params: Lookahead(torch.optim.AdamW(params, lr=1e-2)),
    "schedule-free": ScheduleFree,
}
