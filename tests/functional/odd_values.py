"""Values that arguments are fed: junk that is never right, and doubtful ones that some arguments may take."""

import math

import numpy as np
import torch

JUNK = {
    "nan": math.nan,
    "inf": math.inf,
    "minus inf": -math.inf,
    "numpy nan": np.float64("nan"),
    "array": np.array([1, 2]),
    "array of one": np.array([1]),
    "array of no axis": np.array(2),
    "tensor": torch.tensor(2),
    "floats": torch.ones(3),
    "object": object(),
    "bytes": b"log",
    "type": int,
    "complex": 1j,
    "set": {1},
}
DOUBTFUL = {
    "true": True,
    "minus one": -1,
    "minus a half": -0.5,
    "a half": 0.5,
    "zero": 0,
    "huge": 2**70,
    "beyond floats": 10**400,
    "beyond text": 10**5000,
    "tiny": 5e-324,
    "text": "nonsense",
    "none": None,
    "list": [],
    "mapping": {},
    "numpy true": np.bool_(True),
    "numpy int": np.int64(3),
    "numpy unsigned": np.uint8(3),
    "numpy float": np.float64(0.5),
    "numpy half": np.float16(0.5),
    "function": len,
}
