"""The studies: what each one asks is a declaration, how it runs is `mallowspo.studies.study`."""
