import torch
from torch.distributions import Independent, Laplace, NegativeBinomial

from lfads_torch.modules.priors import Prior
from lfads_torch.modules.recons import Reconstruction


class NegativeBinomialCounts(Reconstruction):
    """Spike counts that vary more than Poisson counts: log mean, and one log dispersion."""

    n_params = 2  # the read-out gets two features for each channel

    def compute_loss(self, data, output_params):
        log_means, log_dispersions = output_params.unbind(-1)
        counts = NegativeBinomial(
            total_count=torch.exp(-log_dispersions), logits=log_means + log_dispersions
        )
        return -counts.log_prob(data)  # (trials, time, channels)

    def compute_means(self, output_params):
        return torch.exp(output_params[..., 0])


class LaplacePrior(Prior):
    """Inferred inputs that are mostly near zero."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale  # kept under its name, so that checkpoints can rebuild the prior

    def make_posterior(self, mean, std):
        return Independent(Laplace(mean, std), 1)

    def forward(self, mean, std):  # KL divergence: summed over bins, averaged over trials
        posterior = Laplace(mean, std)
        prior = Laplace(torch.zeros_like(mean), torch.full_like(std, self.scale))
        return torch.distributions.kl_divergence(posterior, prior).sum() / len(mean)


class ChannelDropout:
    """Silence whole channels of the input. Augmentations need no base class."""

    def __init__(self, rate):
        self.rate = rate

    def process_batch(self, batch):
        n_trials, _, n_channels = batch.encod_data.shape
        kept = torch.rand(n_trials, 1, n_channels, device=batch.encod_data.device) >= self.rate
        return batch._replace(encod_data=batch.encod_data * kept)
