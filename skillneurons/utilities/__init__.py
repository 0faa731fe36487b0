"""What all else stands on: axis names, devices, files, and how results show themselves."""

from skillneurons.utilities.store import StoreError as StoreError
from skillneurons.utilities.store import load as load
from skillneurons.utilities.store import save as save
