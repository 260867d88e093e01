//! One decoder for each format of a source, behind one face.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use weir_crds::backfill_job::SourceFormat;
use weir_crds::columns::Columns;

use super::lines::Block;
use super::reject::RAW_BYTES_MAX;
use super::{CsvDecoder, Decoded, JsonDecoder, UnknownFields, parquet};

/// Rows of one object, as they are handed to a thread.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Lines or CSV records.
    Lines(Block),
    /// Rows of Parquet.
    Rows {
        /// Ordinal of the object in its chunk.
        object: u32,
        /// Number of the first row, from 1.
        first_row: u64,
        /// Declared columns, in the file's types.
        rows: RecordBatch,
        /// All columns of the file.
        schema: SchemaRef,
    },
}

/// A decoder of any format.
#[derive(Debug)]
pub enum Decoder {
    /// JSON lines.
    Json(Box<JsonDecoder>),
    /// CSV.
    Csv(Box<CsvDecoder>),
    /// Parquet.
    Parquet(Columns, UnknownFields),
}

impl Batch {
    /// Ordinal of the object in its chunk.
    pub fn object(&self) -> u32 {
        match self {
            Self::Lines(block) => block.object,
            Self::Rows { object, .. } => *object,
        }
    }

    /// A row as the source has it, at most [`RAW_BYTES_MAX`] of it, and how long it is there.
    pub fn raw(&self, row: u64) -> (Vec<u8>, u64) {
        match self {
            Self::Lines(block) => {
                let line = block.line(row).unwrap_or_default();
                (line[..line.len().min(RAW_BYTES_MAX)].to_vec(), line.len() as u64)
            }
            Self::Rows { first_row, rows, schema, .. } => {
                let index = row.checked_sub(*first_row).and_then(|index| usize::try_from(index).ok());
                let raw = index.filter(|index| *index < rows.num_rows()).map(|index| parquet::row_as_json(rows, index, schema));
                let raw = raw.unwrap_or_default();
                let len = raw.len() as u64;
                (raw, len)
            }
        }
    }
}

impl Decoder {
    /// A decoder for the declared columns.
    pub fn new(format: SourceFormat, columns: &Columns) -> Self {
        match format {
            SourceFormat::JsonLines => Self::Json(Box::new(JsonDecoder::new(columns))),
            SourceFormat::Csv => Self::Csv(Box::new(CsvDecoder::new(columns))),
            SourceFormat::Parquet => Self::Parquet(columns.clone(), UnknownFields::default()),
        }
    }

    /// Decodes rows.
    pub fn decode(&mut self, batch: &Batch) -> Result<Decoded, ArrowError> {
        match (self, batch) {
            (Self::Json(decoder), Batch::Lines(block)) => decoder.decode(block),
            (Self::Csv(decoder), Batch::Lines(block)) => decoder.decode(block),
            (Self::Parquet(columns, unknown), Batch::Rows { object, first_row, rows, schema }) => {
                unknown.merge(parquet::unknown(schema, columns, rows.num_rows() as u64));
                parquet::decode(rows, columns, schema, *object, *first_row)
            }
            (Self::Json(_) | Self::Csv(_), Batch::Rows { .. }) | (Self::Parquet(..), Batch::Lines(_)) => {
                Err(ArrowError::InvalidArgumentError("rows of another format".into()))
            }
        }
    }

    /// The undeclared fields seen since this was last asked.
    pub fn take_unknown(&mut self) -> UnknownFields {
        match self {
            Self::Json(decoder) => decoder.take_unknown(),
            Self::Csv(decoder) => decoder.take_unknown(),
            Self::Parquet(_, unknown) => std::mem::take(unknown),
        }
    }
}
