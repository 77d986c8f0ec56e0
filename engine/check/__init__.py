"""What is right and wrong with a mesh file, whoever wrote it: ``engine.check.files.check_file``."""
