"""`python -m compressm` is `compressm`."""

from compressm.cli import main

raise SystemExit(main())
