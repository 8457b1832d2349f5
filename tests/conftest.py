import logging

import torch

torch.set_num_threads(1)  # two workers share two cores
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
