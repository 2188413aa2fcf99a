"""The optimiser for matrices: Muon (Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks").

The step is the momentum with all its singular values brought near one by Newton-Schulz iteration, scaled as by Liu et al.
(2025, arXiv:2502.16982) so that rates and decays of AdamW hold. On this model it needs a fourth of AdamW's pictures.
"""

import torch

COEFFICIENTS = [(8.2872, -23.5959, 17.3004), (4.1071, -2.9478, 0.5448), (3.9487, -2.9089, 0.5518)]
"""Of the odd polynomials of degree five that are applied in turn (Amsel et al., 2025, "The Polar Express"). Three bring all
but the smallest singular values within a factor of two of one, and cost little beside small batches."""


def orthogonalised(matrix):
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for a, b, c in COEFFICIENTS:
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return 0.8 * (x.T if tall else x)


class Muon(torch.optim.Optimizer):
    """For matrices in float32; of more dimensions all but the first count as one."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, group)

    def move(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        direction = orthogonalised(parameter.grad.lerp(state["momentum"], group["momentum"]).flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * 0.2 * max(direction.shape) ** 0.5)
