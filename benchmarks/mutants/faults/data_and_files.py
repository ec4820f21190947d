"""Faults in readers of data and in what writes files."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/files.py",
        "write(temporary)",
        "write(final)",
        "tests/test_files.py::test_a_full_disk_leaves_the_old_file_and_one_sentence",
    ),
    Fault(
        "gemkern/files.py",
        "temporary.unlink(missing_ok=True)",
        "pass",
        "tests/test_files.py::test_an_interrupt_leaves_nothing",
    ),
    Fault(
        "gemkern/files.py",
        "temporary.chmod(0o666 & ~_umask())",
        "pass",
        "tests/test_files.py::test_the_file_gets_the_ordinary_permissions",
    ),
    Fault(
        "gemkern/files.py",
        "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "tests/test_files.py::test_what_a_killed_writer_left_goes_with_the_next",
    ),
    Fault(
        "gemkern/files.py",
        "not math.isfinite(value):",
        "math.isnan(value):",
        "tests/report/test_run_folder.py"
        "::test_a_loss_that_diverged_is_null_on_file_and_nan_in_memory",
    ),
    Fault(
        "gemkern/data/files.py",
        "wrong = (labels < 0) | (labels >= classes)",
        "wrong = (labels < 0) | (labels > classes)",
        "tests/data/test_idx.py::test_label_out_of_range",
    ),
    Fault(
        "gemkern/data/files.py",
        "check_length(path.stat().st_size, path, remedy)",
        "pass",
        "tests/data/test_cifar.py::test_a_file_that_is_too_long",
    ),
    Fault(
        "gemkern/data/idx.py",
        "if len(content) != body + prod(shape):",
        "if len(content) < body + prod(shape):",
        "tests/data/test_idx.py::test_damaged_images",
    ),
    Fault(
        "gemkern/data/idx.py",
        'np.frombuffer(content[4:body], ">u4")',
        'np.frombuffer(content[4:body], "<u4")',
        "tests/data/test_idx.py::test_reads_back_bit_for_bit",
    ),
    Fault(
        "gemkern/data/idx.py",
        "found = file.read(files.MOST_BYTES + 1)",
        "found = file.read(files.MOST_BYTES)",
        "tests/data/test_idx.py::test_few_bytes_of_gzip_do_not_become_many",
    ),
    Fault(
        "gemkern/data/cifar.py",
        "records[:, label_bytes - 1]",
        "records[:, 0]",
        "tests/data/test_cifar.py::test_reads_back_bit_for_bit",
    ),
    Fault(
        "gemkern/data/cifar_pickle.py",
        'order="F" if by_columns else "C")',
        'order="C")',
        "tests/data/test_cifar.py::test_an_array_stored_by_columns",
    ),
    Fault(
        "gemkern/data/cifar_pickle.py",
        "if prod(shape) * numbers.itemsize != len(content):",
        "if prod(shape) != len(content):",
        "tests/data/test_cifar.py::test_files_that_numpy_pickled_again",
    ),
    Fault(
        "gemkern/data/cifar_pickle.py",
        "if labels.shape != images.shape[:1] or not len(labels):",
        "if not len(labels):",
        "tests/data/test_cifar.py::test_not_the_official_dictionary",
    ),
    Fault(
        "gemkern/data/images.py",
        "_opaque(path, ImageOps.exif_transpose(image))",
        "_opaque(path, image)",
        "tests/data/test_folder.py::test_an_image_is_turned_as_its_orientation_says",
    ),
    Fault(
        "gemkern/data/images.py",
        'with_alpha.getchannel("A")).min() < _OPAQUE',
        'with_alpha.getchannel("A")).max() < _OPAQUE',
        "tests/data/test_folder.py::test_a_transparent_pixel_is_refused",
    ),
    Fault(
        "gemkern/data/images.py",
        "if image.width * image.height > MOST_PIXELS:",
        "if image.width > MOST_PIXELS:",
        "tests/data/test_folder.py::test_what_a_header_says_is_checked_before_pixels_are_decoded",
    ),
    Fault(
        "gemkern/data/fetching.py",
        "hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != digest:",
        "not digest:",
        "tests/data/test_fetching.py::test_another_data_set_of_the_same_names_is_not_overwritten",
    ),
    Fault(
        "gemkern/data/fetching.py",
        'is_inside = not name.anchor and ".." not in name.parts',
        "is_inside = not name.anchor",
        "tests/data/test_fetching.py::test_an_archive_that_leads_out_of_the_folder_is_refused",
    ),
    Fault(
        "gemkern/data/batches.py",
        "window_places = 2 * augment.crop_padding + 1",
        "window_places = 2 * augment.crop_padding",
        "tests/data/test_batches.py::test_every_window_and_both_sides_occur_equally_often",
    ),
    Fault(
        "gemkern/data/batches.py",
        "rows[:, :, None] * (width + 2 * padding)",
        "rows[:, :, None] * (height + 2 * padding)",
        "tests/data/test_batches.py::test_crop_and_flip_moves_pixels_as_the_loop_does",
    ),
    Fault(
        "gemkern/data/batches.py",
        "self._first + step * self._batch_size",
        "self._first + step",
        "tests/experiments/test_resume.py::test_seeds_that_train_together_go_on_together",
    ),
    Fault(
        "gemkern/data/batches.py",
        "(1 / (255 * spread), -center / spread)",
        "(1 / (255 * spread), -center)",
        "tests/data/test_batches.py::test_normalisation_is_as_exact_as_plain_pytorch",
    ),
    Fault(
        "gemkern/data/statistics.py",
        "torch.arange(256, dtype=torch.float64) / 255",
        "torch.arange(256, dtype=torch.float64) / 256",
        "tests/data/test_load_data.py::test_mean_and_std_are_those_of_the_training_split",
    ),
    Fault(
        "gemkern/data/splits.py",
        "quota = np.maximum(1, np.rint(fraction * counts))",
        "quota = np.rint(fraction * counts)",
        "tests/data/test_load_data.py::test_hold_out_is_a_stratified_partition",
    ),
    Fault(
        "gemkern/data/randomness.py",
        "np.random.default_rng([stream, seed, epoch])",
        "np.random.default_rng([seed, epoch])",
        "tests/data/test_load_data.py::test_purposes_draw_numbers_of_their_own",
    ),
)
