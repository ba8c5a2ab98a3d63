"""Settings that every reader may change: they say how an answer looks or is sent, and tools send them unasked.

On a server they are CHANGEABLE_IN_READONLY in the reader's profile; the development server has the same list.
"""

from __future__ import annotations

from typing import Final

FREE_SETTINGS: Final = (
    "allow_experimental_dynamic_type", "allow_experimental_json_type", "allow_experimental_variant_type",
    "async_insert", "cancel_http_readonly_queries_on_client_close", "cast_string_to_dynamic_use_inference",
    "connect_timeout", "date_time_input_format", "date_time_output_format", "enable_http_compression", "extremes",
    "http_connection_timeout", "http_headers_progress_interval_ms", "http_receive_timeout",
    "http_response_buffer_size", "http_send_timeout", "http_wait_end_of_query",
    "http_write_exception_in_output_format", "http_zlib_compression_level", "input_format_binary_read_json_as_string",
    "interactive_delay", "join_use_nulls", "log_comment", "low_cardinality_allow_in_native_format", "max_block_size",
    "network_compression_method", "output_format_arrow_compression_method", "output_format_arrow_string_as_string",
    "output_format_binary_write_json_as_string", "output_format_csv_crlf_end_of_line",
    "output_format_json_named_tuples_as_objects", "output_format_json_quote_64bit_integers",
    "output_format_json_quote_decimals", "output_format_json_quote_denormals",
    "output_format_native_encode_types_in_binary_format", "output_format_native_write_json_as_string",
    "output_format_parquet_string_as_string", "receive_timeout", "result_overflow_mode", "send_logs_level",
    "send_progress_in_http_headers", "send_timeout", "session_timezone", "wait_for_async_insert",
)  # fmt: skip
