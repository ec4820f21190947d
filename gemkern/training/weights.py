"""Training the weights, under whatever masks the model has."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.errors import GemkernError
from gemkern.numbers import MOST_EPOCHS, whole_number
from gemkern.optim import MaskedSGD, SignInSGD
from gemkern.training.forms import Accelerated, Forms
from gemkern.training.rates import rate, set_lr


class WeightTraining:
    """SGD over the weights of `model` for `epochs` epochs; masked weights stay exactly zero.

    The one way in which weights learn here: a dense network, every round of IMP, and the finetuning
    of every ticket. Call `step()` after each `loss.backward()` and `end_epoch()` after each epoch.
    Where the weights are on a CUDA device, captured graphs of `learn()` stay worth a call of it,
    and gradients do not reach the weights of masked layers (`MaskedSGD`, capturable).

    Args:
        model: any module; its masked layers train under `active`, everything else freely.
        epochs: length of the run, in epochs; the schedule is stretched over it.
        lr, momentum, weight_decay, nesterov: of SGD.
        sign_in: epochs after which the factors of masked weights are rescaled, which learn in place
            of the weights (`gemkern.optim.SignInSGD`); 0 for weights as they are.
        accelerated: True to run the layers on the sparse kernels wherever steps are faster for it,
            which is measured; or another choice of `Forms`.
        schedule: "cosine", "multistep" or "constant" (`gemkern.training.rates`).

    Raises:
        GemkernError: fewer than one epoch, an unknown schedule, or both `sign_in` and `nesterov`.
    """

    def __init__(
        self,
        model: nn.Module,
        epochs: int,
        *,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        nesterov: bool = False,
        sign_in: int = 0,
        schedule: str = "cosine",
        accelerated: Accelerated = False,
    ) -> None:
        epochs = whole_number("the number of epochs", epochs, most=MOST_EPOCHS)
        if epochs < 1:
            raise GemkernError(f"training lasts {epochs} epochs: give at least 1")
        self.model = model
        self.epochs = epochs
        self.lr = lr
        self._rate = rate(schedule)
        self._sign_in = whole_number("the number of epochs between rescalings", sign_in)
        self.capturable = on_cuda(model) and not sign_in
        self.optimizer: MaskedSGD
        if sign_in:
            if nesterov:
                raise GemkernError("Sign-In has no Nesterov momentum: leave out one of them")
            self.optimizer = SignInSGD(model, lr, momentum, weight_decay)
        else:
            self.optimizer = MaskedSGD(model, lr, momentum, weight_decay, nesterov, self.capturable)
        self._enter(0)
        self.forms = Forms(model, self.optimizer, accelerated)

    def restart(self) -> None:
        """Begin anew: no momentum, the first epoch's learning rate."""
        self.optimizer.forget()
        self._enter(0)

    def step(self) -> None:
        """Take one SGD step from the gradients that are there, and clear them."""
        self.learn()
        self.end_step()

    def loss(self, outputs: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        """Return the cross-entropy of `outputs`."""
        return F.cross_entropy(outputs, labels)

    def learn(self) -> None:
        """Take one SGD step from the gradients that are there, and clear them."""
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def end_step(self) -> None:
        """Finish a step."""
        self.forms.end_step()

    def end_epoch(self) -> None:
        """Move to the next epoch's learning rate."""
        self._enter(self.epoch + 1)
        if isinstance(self.optimizer, SignInSGD) and self.epoch % self._sign_in == 0:
            self.optimizer.rescale()
        self.forms.pause()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs, beside the model's own state, to continue to the same bits."""
        forms = {} if self.forms.never else {"forms": self.forms.state_dict()}
        return {"epoch": self.epoch, "optimizer": self.optimizer.state_dict(), **forms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if "forms" in state:
            self.forms.load_state_dict(state["forms"])
        self._enter(state["epoch"])

    def _enter(self, epoch: int) -> None:
        self.epoch = epoch
        set_lr(self.optimizer, self.lr * self._rate(epoch, self.epochs))


def on_cuda(model: nn.Module) -> bool:
    """Return whether the parameters of `model` are on CUDA devices."""
    return {parameter.device.type for parameter in model.parameters()} == {"cuda"}
