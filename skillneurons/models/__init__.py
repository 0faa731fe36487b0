"""Encoders with TransformerLens hooks, from Hugging Face and back, and bridges to other models."""

from skillneurons.models._load_model import load_model as load_model
from skillneurons.models.bridge import as_classifiable as as_classifiable
from skillneurons.models.config import EncoderConfig as EncoderConfig
from skillneurons.models.encoder import HookedEncoder as HookedEncoder
