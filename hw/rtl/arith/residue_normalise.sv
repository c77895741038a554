// Carry resolution: words with a small overflow in, canonical words out.
//
//   sum_j m_data_j * 2^(Width*j) = sum_j s_data_j * 2^(Width*j)   mod 2^(Width*count)
//
// Ranges:     s_data [0, 2^(Width + GuardBits)), GuardBits < Width; m_data [0, 2^Width).
// Latency:    4 cycles, independent of data. Throughput: one word a cycle; gaps are allowed; no
//             back-pressure.
// Cost:       two adders of Width bits; the loop from word to word is one LUT.
// Source:     carry-skip with a skip distance of one word.
`default_nettype none

module residue_normalise #(
    parameter int unsigned Width = 51,
    parameter int unsigned GuardBits = 3,
    parameter int unsigned TagBits = 1
) (
    input  wire                        clk,
    input  wire                        rst_n,
    input  wire                        s_valid,
    input  wire                        s_first,
    input  wire                        s_last,
    input  wire  [        TagBits-1:0] s_tag,
    input  wire  [Width+GuardBits-1:0] s_data,
    output logic                       m_valid,
    output logic                       m_first,
    output logic                       m_last,
    output logic [        TagBits-1:0] m_tag,
    output logic [          Width-1:0] m_data
);

  if (GuardBits >= Width) begin : g_illegal
    $error("residue_normalise: GuardBits must be below Width");
  end

  logic [2:0] valid_q;
  logic [2:0] first_q, last_q;
  logic [TagBits-1:0] tag_q[3];
  logic [GuardBits-1:0] over_q;  // overflow of the word before
  logic [Width:0] sum_q;
  logic [Width-1:0] word2_q, word3_q;
  logic generate_q, propagate_q, carry_q, carry3_q;

  wire carry = carry_q & ~first_q[1];

  always_ff @(posedge clk) begin
    if (!rst_n) {m_valid, valid_q} <= '0;
    else {m_valid, valid_q} <= {valid_q, s_valid};
  end

  always_ff @(posedge clk) begin
    {m_first, first_q} <= {first_q, s_first};
    {m_last, last_q}   <= {last_q, s_last};
    tag_q[0]           <= s_tag;
    tag_q[1]           <= tag_q[0];
    tag_q[2]           <= tag_q[1];
    m_tag              <= tag_q[2];

    // 1: the overflow moves on by one word; what is left overflows by one at most.
    sum_q <= (Width + 1)'(s_data[Width-1:0]) + (s_first ? '0 : (Width + 1)'(over_q));
    if (s_valid) over_q <= s_data[Width+:GuardBits];
    // 2: a word that overflowed is small, so it does not propagate as well.
    word2_q     <= sum_q[Width-1:0];
    generate_q  <= sum_q[Width];
    propagate_q <= &sum_q[Width-1:0];
    // 3: the loop.
    word3_q  <= word2_q;
    carry3_q <= carry;
    if (valid_q[1]) carry_q <= generate_q | (propagate_q & carry);
    // 4
    m_data <= word3_q + Width'(carry3_q);
  end

endmodule

`default_nettype wire
